//! Long bulk operations in pieces.
//!
//! `memory.fill`, `memory.copy` and `memory.init` are one instruction each, whatever their length: a guest
//! that fills 4 GiB computes for more than a second in which no limit is looked at and nobody else gets its
//! thread. Here each of them becomes a call of a function that does the same in pieces, and asks for its turn
//! between two of them, as every loop does. Where an operation leaves its memory, the pieces before are done
//! when it traps: nobody sees them, since an instance is gone with its first trap.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use wasm_encoder::reencode::{self, Reencode, ReencodeComponent};
use wasm_encoder::{
    BlockType, CodeSection, Component, Function, FunctionSection, Instruction, InstructionSink, Module,
    TypeSection, ValType,
};
use wasmparser::{
    CodeSectionReader, CustomSectionReader, FunctionSectionReader, Operator, Parser, Payload,
    TypeSectionReader,
};

/// Longest piece in bytes: 0.1 ms, and twice as much where the pages are touched for the first time.
const PIECE: i32 = 1 << 20;

type Error = reencode::Error<std::convert::Infallible>;

/// A component with its bulk operations in pieces.
///
/// # Errors
/// What it consists of is not known here, or is not valid.
pub(crate) fn in_pieces(component: &[u8]) -> Result<Vec<u8>, Error> {
    let mut pieces = Pieces::default();
    let mut out = Component::new();
    pieces.parse_component(&mut out, Parser::new(0), component)?;
    Ok(out.finish())
}

/// A bulk operation; each has a function of its own in a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Bulk {
    Fill,
    Copy,
    /// From this data segment.
    Init(u32),
}

impl Bulk {
    /// There is one memory: several are switched off.
    fn of(operator: &Operator<'_>) -> Option<Bulk> {
        match operator {
            Operator::MemoryFill { .. } => Some(Bulk::Fill),
            Operator::MemoryCopy { .. } => Some(Bulk::Copy),
            Operator::MemoryInit { data_index, .. } => Some(Bulk::Init(*data_index)),
            _ => None,
        }
    }

    fn emit(self, sink: &mut InstructionSink<'_>) {
        match self {
            Bulk::Fill => sink.memory_fill(0),
            Bulk::Copy => sink.memory_copy(0, 0),
            Bulk::Init(segment) => sink.memory_init(0, segment),
        };
    }
}

/// What is known of the module that is being written.
#[derive(Default)]
struct Pieces {
    /// Those that it uses, in the order of their functions, and the place of each in that order.
    used: Vec<Bulk>,
    places: HashMap<Bulk, u32>,
    /// Index of their type, and of the first of the functions.
    ty: u32,
    first: u32,
}

impl Pieces {
    fn of(module: &[u8]) -> Result<Pieces, Error> {
        let mut pieces = Pieces::default();
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::TypeSection(types) => {
                    for group in types {
                        pieces.ty += group?.types().len() as u32;
                    }
                }
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports() {
                        let is_function = matches!(
                            import?.ty,
                            wasmparser::TypeRef::Func(_) | wasmparser::TypeRef::FuncExact(_)
                        );
                        pieces.first += u32::from(is_function);
                    }
                }
                Payload::FunctionSection(functions) => pieces.first += functions.count(),
                Payload::CodeSectionEntry(body) => {
                    let mut operators = body.get_operators_reader()?;
                    while !operators.eof() {
                        if let Some(bulk) = Bulk::of(&operators.read()?)
                            && let Entry::Vacant(place) = pieces.places.entry(bulk)
                        {
                            place.insert(pieces.used.len() as u32);
                            pieces.used.push(bulk);
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(pieces)
    }
}

impl Reencode for Pieces {
    type Error = std::convert::Infallible;

    fn parse_type_section(
        &mut self,
        types: &mut TypeSection,
        section: TypeSectionReader<'_>,
    ) -> Result<(), Error> {
        reencode::utils::parse_type_section(self, types, section)?;
        if !self.used.is_empty() {
            types.ty().function([ValType::I32; 3], []);
        }
        Ok(())
    }

    fn parse_function_section(
        &mut self,
        functions: &mut FunctionSection,
        section: FunctionSectionReader<'_>,
    ) -> Result<(), Error> {
        reencode::utils::parse_function_section(self, functions, section)?;
        self.used.iter().for_each(|_| {
            functions.function(self.ty);
        });
        Ok(())
    }

    fn parse_code_section(
        &mut self,
        code: &mut CodeSection,
        section: CodeSectionReader<'_>,
    ) -> Result<(), Error> {
        reencode::utils::parse_code_section(self, code, section)?;
        self.used.iter().for_each(|bulk| {
            code.function(&function(*bulk));
        });
        Ok(())
    }

    fn instruction<'a>(&mut self, operator: Operator<'a>) -> Result<Instruction<'a>, Error> {
        match Bulk::of(&operator).and_then(|bulk| self.places.get(&bulk)) {
            Some(n) => Ok(Instruction::Call(self.first + n)),
            None => reencode::utils::instruction(self, operator),
        }
    }

    /// As it is, also where it is malformed: names are not needed to run, and no index has changed.
    fn parse_custom_section(
        &mut self,
        module: &mut Module,
        section: CustomSectionReader<'_>,
    ) -> Result<(), Error> {
        module.section(&self.custom_section(section)?);
        Ok(())
    }
}

impl ReencodeComponent for Pieces {
    fn parse_component_custom_section(
        &mut self,
        component: &mut Component,
        section: CustomSectionReader<'_>,
    ) -> Result<(), Error> {
        component.section(&self.custom_section(section)?);
        Ok(())
    }

    fn parse_component_submodule(
        &mut self,
        component: &mut Component,
        parser: Parser,
        module: &[u8],
    ) -> Result<(), Error> {
        *self = Pieces::of(module)?;
        reencode::component_utils::parse_component_submodule(self, component, parser, module)
    }
}

/// Locals of the functions: where to, where from (or what), and how many bytes.
const TO: u32 = 0;
const FROM: u32 = 1;
const LENGTH: u32 = 2;

/// The same operation in pieces. It takes what the operation takes.
fn function(bulk: Bulk) -> Function {
    let mut function = Function::new([]);
    let mut sink = function.instructions();
    sink.block(BlockType::Empty);
    // What goes beyond the last address is left as it is, and traps.
    for place in if bulk == Bulk::Fill { &[TO][..] } else { &[TO, FROM] } {
        sink.local_get(*place).i64_extend_i32_u().local_get(LENGTH).i64_extend_i32_u().i64_add();
        sink.i64_const(1 << 32).i64_gt_u().br_if(0);
    }
    if bulk == Bulk::Copy {
        // Where the places overlap, what is copied first must not lie in the way of what is copied later.
        sink.local_get(TO).local_get(FROM).i32_gt_u().if_(BlockType::Empty);
        from_the_end(&mut sink);
        sink.else_();
        from_the_beginning(bulk, &mut sink);
        sink.end();
    } else {
        from_the_beginning(bulk, &mut sink);
    }
    sink.end();
    // The rest.
    sink.local_get(TO).local_get(FROM).local_get(LENGTH);
    bulk.emit(&mut sink);
    sink.end();
    function
}

/// Pieces from the beginning, as long as there is more than one left.
fn from_the_beginning(bulk: Bulk, sink: &mut InstructionSink<'_>) {
    while_longer_than_a_piece(sink, |sink| {
        sink.local_get(TO).local_get(FROM).i32_const(PIECE);
        bulk.emit(sink);
        sink.local_get(TO).i32_const(PIECE).i32_add().local_set(TO);
        if bulk != Bulk::Fill {
            sink.local_get(FROM).i32_const(PIECE).i32_add().local_set(FROM);
        }
        sink.local_get(LENGTH).i32_const(PIECE).i32_sub().local_set(LENGTH);
    });
}

/// The same from the end.
fn from_the_end(sink: &mut InstructionSink<'_>) {
    while_longer_than_a_piece(sink, |sink| {
        sink.local_get(LENGTH).i32_const(PIECE).i32_sub().local_set(LENGTH);
        for place in [TO, FROM] {
            sink.local_get(place).local_get(LENGTH).i32_add();
        }
        sink.i32_const(PIECE);
        Bulk::Copy.emit(sink);
    });
}

fn while_longer_than_a_piece(sink: &mut InstructionSink<'_>, body: impl FnOnce(&mut InstructionSink<'_>)) {
    sink.block(BlockType::Empty).loop_(BlockType::Empty);
    sink.local_get(LENGTH).i32_const(PIECE).i32_le_u().br_if(1);
    body(sink);
    sink.br(0).end().end();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use wasmtime::{Engine, Instance, Module, Store, UpdateDeadline};

    const GUEST: &str = r#"(component (core module
        (memory (export "memory") 200)
        (data $passive "\01\02\03\04\05\06\07\08")
        (func (export "fill") (param i32 i32 i32)
            local.get 0 local.get 1 local.get 2 memory.fill)
        (func (export "copy") (param i32 i32 i32)
            local.get 0 local.get 1 local.get 2 memory.copy)
        (func (export "init") (param i32 i32 i32)
            local.get 0 local.get 1 local.get 2 memory.init $passive)))"#;

    /// The only module of a component.
    fn module(component: &[u8]) -> Vec<u8> {
        let mut parser = Parser::new(0).parse_all(component);
        let range = parser.find_map(|payload| match payload.expect("valid") {
            Payload::ModuleSection { unchecked_range, .. } => Some(unchecked_range),
            _ => None,
        });
        component[range.expect("a module")].to_vec()
    }

    struct Guest {
        store: Store<u32>,
        instance: Instance,
    }

    impl Guest {
        fn new(component: &[u8]) -> Guest {
            let engine = Engine::new(&config::common()).expect("an engine");
            let module = Module::new(&engine, module(component)).expect("valid");
            let mut store = Store::new(&engine, 0);
            // Every look at the epoch is counted.
            store.epoch_deadline_callback(|mut store| {
                *store.data_mut() += 1;
                Ok(UpdateDeadline::Continue(0))
            });
            let instance = Instance::new(&mut store, &module, &[]).expect("an instance");
            Guest { store, instance }
        }

        fn call(&mut self, name: &str, arguments: (u32, u32, u32)) -> wasmtime::Result<()> {
            let f = self.instance.get_typed_func::<(u32, u32, u32), ()>(&mut self.store, name)?;
            f.call(&mut self.store, arguments)
        }

        fn memory(&mut self) -> &mut [u8] {
            let memory = self.instance.get_memory(&mut self.store, "memory").expect("a memory");
            memory.data_mut(&mut self.store)
        }
    }

    #[test]
    fn operations_in_pieces_do_the_same_and_stop_for_others() {
        const MIB: u32 = 1 << 20;
        let plain = wat::parse_str(GUEST).expect("text");
        let pieces = in_pieces(&plain).expect("known");
        let end = 200 * 65_536;
        let copies = [
            (0, 3 * MIB, 5 * MIB + 7),
            (3 * MIB, 0, 5 * MIB + 7),
            (1, 0, 4 * MIB),
            (0, 1, 4 * MIB),
            (MIB, 0, MIB),
            (7, 7, 3 * MIB),
            (end - 10, 0, 10),
            (0, end - MIB, MIB),
        ];
        for (name, arguments) in copies.map(|arguments| ("copy", arguments)).into_iter().chain([
            ("fill", (5, 0xab, 3 * MIB + 1)),
            ("fill", (end, 1, 0)),
            ("init", (9, 2, 6)),
        ]) {
            let mut memories = Vec::new();
            for component in [&plain, &pieces] {
                let mut guest = Guest::new(component);
                for (n, byte) in guest.memory().iter_mut().enumerate() {
                    *byte = ((n * 31) >> 3) as u8;
                }
                guest.call(name, arguments).expect("no trap");
                let (looks, least) = (*guest.store.data(), arguments.2.saturating_sub(1) / MIB);
                assert!(component == &plain || looks >= least, "{name} {arguments:?}: {looks} looks");
                memories.push(guest.memory().to_vec());
            }
            assert!(memories[0] == memories[1], "{name} {arguments:?}");
        }
    }

    #[test]
    fn what_leaves_the_memory_or_the_segment_traps() {
        let end = 200 * 65_536;
        let pieces = in_pieces(&wat::parse_str(GUEST).expect("text")).expect("known");
        for (name, arguments) in [
            ("fill", (1, 0, end)),
            ("fill", (u32::MAX, 0, 2)),
            ("fill", (u32::MAX - 10, 0, 5 << 20)),
            ("copy", (0, 1, end)),
            ("copy", (1, 0, end)),
            ("copy", (u32::MAX, 0, u32::MAX)),
            ("init", (0, 0, 9)),
            ("init", (0, u32::MAX, 2)),
        ] {
            assert!(Guest::new(&pieces).call(name, arguments).is_err(), "{name} {arguments:?}");
        }
    }

    #[test]
    fn a_component_without_bulk_operations_does_as_before() {
        let plain = wat::parse_str("(component (core module (func (export \"f\"))))").expect("text");
        assert!(module(&in_pieces(&plain).expect("known")) == module(&plain));
    }
}
