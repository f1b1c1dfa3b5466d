/* SPDX-License-Identifier: Apache-2.0 */
/* One of the libraries of the bench's program: a function NAME, and as many
 * bytes as a real library has. */
static const unsigned char body[BODY] __attribute__((used)) = {[0 ... BODY - 1] = 0xa5};

int NAME(void)
{
	return body[0];
}
