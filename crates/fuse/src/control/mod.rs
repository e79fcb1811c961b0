//! The client side of the ioctls of a mount.
