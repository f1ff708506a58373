//! Components written by hand, for what no compiler makes.

/// A component of wasi:http whose core module is `body`: it has to export `handle(i32, i32)`.
pub fn handler(body: &str) -> String {
    format!(
        r#"(component
  (import "wasi:http/types@0.2.0" (instance $types
    (export "incoming-request" (type (sub resource)))
    (export "response-outparam" (type (sub resource)))))
  (alias export $types "incoming-request" (type $request))
  (alias export $types "response-outparam" (type $out))
  (core module $module {body})
  (core instance $instance (instantiate $module))
  (func $handle (param "request" (own $request)) (param "response-out" (own $out))
    (canon lift (core func $instance "handle")))
  (instance $handler (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#
    )
}

/// Grows a table until it is refused, and then traps.
pub const TABLE_BOMB: &str = r#"
    (table $t 1 funcref)
    (func (export "handle") (param i32 i32)
      (loop $again
        (br_if $again (i32.ne (table.grow $t (ref.null func) (i32.const 100000)) (i32.const -1))))
      unreachable)"#;

/// Declares a memory of 4 GiB.
pub const HUGE_MEMORY: &str = r#"
    (memory 65536)
    (func (export "handle") (param i32 i32))"#;

/// Declares a table of a hundred million elements.
pub const HUGE_TABLE: &str = r#"
    (table 100000000 funcref)
    (func (export "handle") (param i32 i32))"#;

/// Returns at once, without an answer.
pub const SILENT: &str = r#"(func (export "handle") (param i32 i32))"#;

/// A module and not a component.
pub const CORE_MODULE: &str = r#"(module (func (export "handle") (param i32 i32)))"#;

/// A component that wants what no host of ours offers.
pub const FOREIGN_IMPORT: &str = r#"(component
  (import "acme:rockets/launch@1.0.0" (instance (export "ignite" (func))))
  (core module $m (func (export "f")))
  (core instance $i (instantiate $m)))"#;

/// A component that exports no handler.
pub const NO_HANDLER: &str = r#"(component (core module $m) (core instance $i (instantiate $m)))"#;

/// A component that instantiates one module `count` times.
pub fn many_instances(count: usize) -> String {
    let instances = "  (core instance (instantiate $module))\n".repeat(count);
    handler(SILENT).replacen("  (func $handle", &format!("{instances}  (func $handle"), 1)
}
