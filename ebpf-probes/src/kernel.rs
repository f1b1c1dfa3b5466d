// SPDX-License-Identifier: GPL-2.0-only
//! Reading the kernel's structures without CO-RE, which rustc does not have.
//!
//! Each field's offset is a read-only global that the agent fills from BTF. The
//! map behind it is frozen before load, so the verifier knows the value and checks
//! a plain load against the type: a wrong pointer field is refused. A wrong scalar
//! is not; the agent's self-test compares what is read with what stat says.

use core::arch::asm;

use aya_ebpf::{Global, helpers::generated::bpf_probe_read_kernel};

macro_rules! globals {
    ($($global:ident: $s:literal . $f:literal $(or $s2:literal . $f2:literal)*;)*) => {
        $(
            #[doc = concat!("Offset of `", $f, "` in `struct ", $s, "`.")]
            #[unsafe(no_mangle)]
            pub static $global: Global<u64> = Global::new(0);
        )*
    };
}
cima_abi::for_each_offset!(globals);

/// `sizeof(struct upid)`.
#[unsafe(no_mangle)]
pub static SIZE_UPID: Global<u64> = Global::new(0);

/// A structure of the kernel, known by address only.
pub type Object = *const u8;

/// Loads the field at `offset` by one plain load that the verifier checks against BTF.
///
/// # Safety
/// `object` is a pointer that the verifier tracks (context, helper or such a load);
/// it may be null or stale, then the kernel's fault handling yields 0.
#[inline(always)]
pub unsafe fn load<T: Copy>(object: Object, offset: &Global<u64>) -> T {
    // SAFETY: the verifier admits the load only inside the object's BTF type.
    unsafe { core::ptr::read_volatile(object.add(offset.load() as usize).cast::<T>()) }
}

/// Reads the field at `offset` through the fault-safe helper, for pointers that came out of
/// a `void *` or a variable offset and that the verifier does not type.
#[inline(always)]
pub fn read<T: Copy + Default>(object: Object, offset: u64) -> T {
    let mut value = T::default();
    // SAFETY: writes size_of::<T>() bytes into a live T; a bad source address is an error, not a fault.
    unsafe {
        bpf_probe_read_kernel(
            (&raw mut value).cast(),
            size_of::<T>() as u32,
            object.wrapping_add(offset as usize).cast(),
        );
    }
    value
}

/// Reads a pointer-sized field like [`read`].
#[inline(always)]
pub fn read_pointer(object: Object, offset: u64) -> Object {
    read::<u64>(object, offset) as Object
}

/// The address of a tracked object as a plain number: the verifier lets it be calculated
/// with, and only the fault-safe helper read from it.
#[inline(always)]
pub fn address(object: Object) -> Object {
    let mut address = 0u64;
    // SAFETY: copies the eight bytes of a pointer on our own stack.
    unsafe {
        bpf_probe_read_kernel((&raw mut address).cast(), 8, (&raw const object).cast());
    }
    address as Object
}

/// Turns objects that the verifier tracks into plain numbers, cheaper than [`address`]: the
/// difference of two pointers is a number to it, and the address of the current task is one, too.
pub struct Number {
    task: Object,
    address: u64,
}

impl Number {
    /// Of the current task, as a pointer (`bpf_get_current_task_btf`) and as a number
    /// (`bpf_get_current_task`).
    #[inline(always)]
    pub fn new(task: Object, address: u64) -> Self {
        Self { task, address }
    }

    #[inline(always)]
    pub fn of(&self, object: Object) -> u64 {
        let mut difference = object as u64;
        // SAFETY: one subtraction. In assembly, so that the compiler does not regroup the sum
        // into one that the verifier refuses.
        unsafe {
            asm!("{difference} -= {task}", difference = inout(reg) difference, task = in(reg) self.task);
        }
        difference.wrapping_add(self.address)
    }
}
