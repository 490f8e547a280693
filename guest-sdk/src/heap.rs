//! The heap of a guest: free lists by size in front of the C library's allocator.
//!
//! A turn of an orchestration is some twenty short-lived allocations, and a guest is
//! small and often cold: what counts is how few instructions and cache lines each of
//! them takes. A block that is freed is the next one of its size to be given out, and
//! fresh ones are cut side by side from one piece. Large ones go to the C library.
//! Blocks are never given back to it: a guest's memory never shrinks anyway.
//!
//! It is the global allocator of every module that is built with this crate, unless its
//! feature `heap` is turned off.

#![allow(unsafe_code, reason = "an allocator hands out memory")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;

#[global_allocator]
static HEAP: Heap = Heap { free: [const { Cell::new(ptr::null_mut()) }; CLASSES], cut: Cell::new((0, 0)) };

/// Sizes are rounded up to a multiple of this, which is also how all blocks are aligned.
const STEP: usize = 16;

/// Blocks of up to `CLASSES * STEP` bytes have a free list.
const CLASSES: usize = 32;

/// What is asked of the C library at once, to be cut up; half of what a page of it has.
const PIECE: usize = 2048;

struct Heap {
    /// Per size, the block that was freed last; each holds the address of the next.
    free: [Cell<*mut u8>; CLASSES],
    /// From where to where nothing was cut yet.
    cut: Cell<(usize, usize)>,
}

// SAFETY: WebAssembly without the proposal for threads has one thread, and hosts refuse
// modules with threads.
unsafe impl Sync for Heap {}

/// The free list for a layout, if it has one.
fn class_of(layout: Layout) -> Option<usize> {
    let class = layout.size().wrapping_sub(1) / STEP;
    (class < CLASSES && layout.align() <= STEP).then_some(class)
}

impl Heap {
    #[cold]
    fn fresh(&self, class: usize) -> *mut u8 {
        let size = (class + 1) * STEP;
        let (mut from, mut to) = self.cut.get();
        if to - from < size {
            // SAFETY: the layout is not empty.
            let piece = unsafe { System.alloc(Layout::from_size_align(PIECE, STEP).expect("a power of two")) };
            if piece.is_null() {
                return piece;
            }
            // What is left of the last piece serves as the largest block that it holds.
            if let Some(class) = ((to - from) / STEP).checked_sub(1) {
                self.put(from as *mut u8, class);
            }
            (from, to) = (piece as usize, piece as usize + PIECE);
        }
        self.cut.set((from + size, to));
        from as *mut u8
    }

    fn put(&self, block: *mut u8, class: usize) {
        // SAFETY: a block is at least STEP long, aligned to it, and nobody else's.
        unsafe { block.cast::<*mut u8>().write(self.free[class].get()) };
        self.free[class].set(block);
    }
}

// SAFETY: a block is in one free list, or cut, or in use; never two of these. What
// `class_of` says of a layout is the same when it is freed.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(class) = class_of(layout) else {
            // SAFETY: passed on.
            return unsafe { System.alloc(layout) };
        };
        let block = self.free[class].get();
        if block.is_null() {
            return self.fresh(class);
        }
        // SAFETY: `put` wrote it.
        self.free[class].set(unsafe { block.cast::<*mut u8>().read() });
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match class_of(layout) {
            Some(class) => self.put(block, class),
            // SAFETY: passed on; it came from there.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let new = Layout::from_size_align(size, layout.align()).expect("the caller has checked that");
        match (class_of(layout), class_of(new)) {
            // SAFETY: passed on; it came from there.
            (None, None) => unsafe { System.realloc(block, layout, size) },
            (old, wanted) if old == wanted => block,
            // SAFETY: both blocks hold what is copied, and are not the same.
            _ => unsafe {
                let moved = self.alloc(new);
                if !moved.is_null() {
                    ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
                    self.dealloc(block, layout);
                }
                moved
            },
        }
    }
}
