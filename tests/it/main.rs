//! Vesta's integration tests: the real binary, real guests, real sockets; one file a behaviour.
