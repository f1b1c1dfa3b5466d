// SPDX-License-Identifier: Apache-2.0
//! Every policy that `docs/ADMISSION.md` shows is one, and allows and denies what the text says.
