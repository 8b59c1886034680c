//! What an exit means to the guest.
#![no_std]
