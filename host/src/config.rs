//! Configuration of the host.
