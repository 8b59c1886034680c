//! Tests of the images on QEMU, and of the command.
