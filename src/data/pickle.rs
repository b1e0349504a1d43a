//! Pickles, as far as `torch.save` writes them for a state dict: a stack machine that knows a few opcodes and names.
//!
//! A pickle is a program, and Python's reader calls what it names. Nothing is called here: each name that a state dict needs
//! has a meaning of its own, and any other one is an error. Objects lie in one list and refer to others by index, so a pickle
//! can't make deep or endless structures of Rust; each opcode makes at most one object, so memory goes with the pickle's size.

use std::collections::BTreeMap;

/// Most dimensions of a tensor; weights have one or two.
const MAX_DIMS: usize = 8;
/// Most objects; a tensor takes about 13.
const MAX_OBJECTS: usize = 1 << 22;

/// What to do with a pickle that has more than a state dict.
const CONVERT: &str = "if you trust the file, load it with `torch.load(FILE, weights_only=True)` and save its state dict as \
                       `model.safetensors` with `safetensors.torch.save_file(STATE, \"model.safetensors\", {\"format\": \"pt\"})`";

const DAMAGED: &str = "the file is damaged: fetch or write it again";

/// What is wrong with a pickle, and what to do.
pub(crate) type Wrong = (String, &'static str);

/// A tensor as it is pickled: a view of a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PickledTensor<'p> {
    /// The storage's name in the archive.
    pub(crate) storage: &'p str,
    /// PyTorch's name of the storage's type, `FloatStorage`.
    pub(crate) kind: &'p str,
    /// Numbers in the storage.
    pub(crate) count: u64,
    /// The first one of the tensor.
    pub(crate) offset: u64,
    pub(crate) shape: Vec<u64>,
    /// How far apart neighbours of each dimension are, in numbers.
    pub(crate) strides: Vec<u64>,
}

/// An object, by its place in the machine's list.
type Id = usize;

#[derive(Clone, Debug)]
enum Object<'p> {
    Nothing,
    Bool,
    Int(i64),
    Text(&'p str),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Call(Callable),
    /// The type of a storage.
    Storage(&'p str),
    /// A persistent id: the type, the name and the size of a storage.
    Stored {
        kind: &'p str,
        name: &'p str,
        count: u64,
    },
    Tensor(Box<PickledTensor<'p>>),
}

/// What a pickle may name to be called.
#[derive(Clone, Copy, Debug)]
enum Callable {
    OrderedDict,
    Tensor,
    Parameter,
}

/// Returns the tensors of a state dict, by name.
///
/// # Errors
/// When it is anything else, damaged, or names what a state dict has no use for.
pub(crate) fn state_dict(pickle: &[u8]) -> Result<BTreeMap<String, PickledTensor<'_>>, Wrong> {
    let mut machine = Machine {
        pickle,
        at: 0,
        objects: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: BTreeMap::new(),
    };
    let top = machine.run()?;
    let Object::Dict(entries) = &machine.objects[top] else {
        return Err(("it holds no state dict".to_owned(), CONVERT));
    };
    let mut tensors = BTreeMap::new();
    for &(key, value) in entries {
        let Object::Text(name) = machine.objects[key] else {
            return Err(("it holds a dict whose keys are no texts".to_owned(), CONVERT));
        };
        let Object::Tensor(tensor) = &machine.objects[value] else {
            return Err((
                format!("its entry `{name}` is no tensor, so it is no state dict"),
                CONVERT,
            ));
        };
        // As in Python, a later entry takes the place of an earlier one.
        tensors.insert(name.to_owned(), (**tensor).clone());
    }
    Ok(tensors)
}

struct Machine<'p> {
    pickle: &'p [u8],
    at: usize,
    objects: Vec<Object<'p>>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Id>,
}

impl<'p> Machine<'p> {
    /// Runs up to the end and returns what is on top.
    fn run(&mut self) -> Result<Id, Wrong> {
        loop {
            match self.byte()? {
                b'.' => return self.pop(),
                op => self.step(op)?,
            }
        }
    }

    fn step(&mut self, op: u8) -> Result<(), Wrong> {
        let object = match op {
            0x80 => return self.protocol(),
            b'(' => {
                self.marks.push(self.stack.len());
                return Ok(());
            }
            b's' => {
                let items = self.take(2)?;
                return self.set(&items);
            }
            b'u' => {
                let items = self.since_mark()?;
                return self.set(&items);
            }
            b'q' | b'r' => {
                let slot = self.slot(op == b'q')?;
                return self.keep(slot);
            }
            b'h' | b'j' => {
                let slot = self.slot(op == b'h')?;
                return self.recall(slot);
            }
            // A state dict's attribute `_metadata`: versions of its modules, which say nothing of the tensors.
            b'b' => {
                self.pop()?;
                return self.dict().map(|_| ());
            }
            b'N' => Object::Nothing,
            0x88 | 0x89 => Object::Bool,
            b'K' => Object::Int(i64::from(self.byte()?)),
            b'M' => Object::Int(i64::from(u16::from_le_bytes(self.word()?))),
            b'J' => Object::Int(i64::from(i32::from_le_bytes(self.word()?))),
            0x8a => Object::Int(self.long()?),
            b'X' => {
                let size = u32::from_le_bytes(self.word()?);
                Object::Text(self.text(size as usize)?)
            }
            b')' => Object::Tuple(Vec::new()),
            b't' => Object::Tuple(self.since_mark()?),
            0x85..=0x87 => Object::Tuple(self.take(usize::from(op - 0x84))?),
            b'}' => Object::Dict(Vec::new()),
            b'c' => self.name()?,
            b'Q' => self.storage()?,
            b'R' => self.call()?,
            _ => {
                let at = self.at - 1;
                let what = format!(
                    "its pickle has opcode {op:#04x} at byte {at}, which no state dict needs"
                );
                return Err((what, CONVERT));
            }
        };
        self.push(object)
    }

    fn protocol(&mut self) -> Result<(), Wrong> {
        match self.byte()? {
            2 => Ok(()),
            other => {
                Err((format!("its pickle has protocol {other}; `torch.save` writes 2"), CONVERT))
            }
        }
    }

    fn slot(&mut self, is_short: bool) -> Result<u32, Wrong> {
        if is_short { Ok(u32::from(self.byte()?)) } else { Ok(u32::from_le_bytes(self.word()?)) }
    }

    fn damaged<T>(&self, what: &str) -> Result<T, Wrong> {
        Err((format!("its pickle is damaged at byte {}: {what}", self.at), DAMAGED))
    }

    fn bytes(&mut self, count: usize) -> Result<&'p [u8], Wrong> {
        let Some(bytes) = self.pickle[self.at..].get(..count) else {
            return self.damaged("it ends too early");
        };
        self.at += count;
        Ok(bytes)
    }

    fn word<const N: usize>(&mut self) -> Result<[u8; N], Wrong> {
        let mut word = [0; N];
        word.copy_from_slice(self.bytes(N)?);
        Ok(word)
    }

    fn byte(&mut self) -> Result<u8, Wrong> {
        self.word::<1>().map(|[byte]| byte)
    }

    fn text(&mut self, count: usize) -> Result<&'p str, Wrong> {
        match std::str::from_utf8(self.bytes(count)?) {
            Ok(text) => Ok(text),
            Err(_) => self.damaged("a text is not UTF-8"),
        }
    }

    fn line(&mut self) -> Result<&'p str, Wrong> {
        let Some(count) = self.pickle[self.at..].iter().position(|&byte| byte == b'\n') else {
            return self.damaged("a name has no end");
        };
        let text = self.text(count)?;
        self.at += 1;
        Ok(text)
    }

    /// Reads a whole number of up to eight bytes in two's complement.
    fn long(&mut self) -> Result<i64, Wrong> {
        let count = usize::from(self.byte()?);
        let bytes = self.bytes(count)?;
        let sign = bytes.last().map_or(0, |&last| if last > 127 { 255 } else { 0 });
        let mut word = [sign; 8];
        let Some(low) = word.get_mut(..count) else {
            return self.damaged("a number has more than 64 bits");
        };
        low.copy_from_slice(bytes);
        Ok(i64::from_le_bytes(word))
    }

    fn push(&mut self, object: Object<'p>) -> Result<(), Wrong> {
        if self.objects.len() == MAX_OBJECTS {
            return Err((format!("its pickle has more than {MAX_OBJECTS} objects"), CONVERT));
        }
        self.stack.push(self.objects.len());
        self.objects.push(object);
        Ok(())
    }

    /// Takes the top, but nothing below the last mark.
    fn pop(&mut self) -> Result<Id, Wrong> {
        match self.stack.pop() {
            Some(top) if self.stack.len() >= self.marks.last().copied().unwrap_or(0) => Ok(top),
            _ => self.damaged("its stack is empty"),
        }
    }

    fn take(&mut self, count: usize) -> Result<Vec<Id>, Wrong> {
        let mut items = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        Ok(items)
    }

    fn since_mark(&mut self) -> Result<Vec<Id>, Wrong> {
        match self.marks.pop() {
            Some(height) => Ok(self.stack.split_off(height)),
            None => self.damaged("its stack has no mark"),
        }
    }

    fn top(&self) -> Result<Id, Wrong> {
        match self.stack.last() {
            Some(&top) => Ok(top),
            None => self.damaged("its stack is empty"),
        }
    }

    /// Returns the dict on top.
    fn dict(&mut self) -> Result<&mut Vec<(Id, Id)>, Wrong> {
        let top = self.top()?;
        if !matches!(self.objects[top], Object::Dict(_)) {
            return self.damaged("something other than a dict is filled");
        }
        let Object::Dict(entries) = &mut self.objects[top] else { unreachable!("it was one") };
        Ok(entries)
    }

    fn set(&mut self, items: &[Id]) -> Result<(), Wrong> {
        if !items.len().is_multiple_of(2) {
            return self.damaged("a key has no value");
        }
        self.dict()?.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        Ok(())
    }

    fn keep(&mut self, slot: u32) -> Result<(), Wrong> {
        let top = self.top()?;
        self.memo.insert(slot, top);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<(), Wrong> {
        match self.memo.get(&slot) {
            Some(&object) => {
                self.stack.push(object);
                Ok(())
            }
            None => self.damaged("it refers to what it has not kept"),
        }
    }

    /// Reads a name and gives it its meaning.
    fn name(&mut self) -> Result<Object<'p>, Wrong> {
        let (module, name) = (self.line()?, self.line()?);
        Ok(match (module, name) {
            ("collections", "OrderedDict") => Object::Call(Callable::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Object::Call(Callable::Tensor),
            ("torch._utils", "_rebuild_parameter") => Object::Call(Callable::Parameter),
            ("torch", kind) if kind.ends_with("Storage") => Object::Storage(kind),
            _ => {
                return Err((
                    format!(
                        "its pickle names `{module}.{name}`, which no state dict needs and is not run"
                    ),
                    CONVERT,
                ));
            }
        })
    }

    /// Reads `("storage", type, name, device, numbers)`.
    fn storage(&mut self) -> Result<Object<'p>, Wrong> {
        let id = self.pop()?;
        if let Object::Tuple(items) = &self.objects[id]
            && let [what, kind, name, _, count] = items[..]
            && let Object::Text("storage") = self.objects[what]
            && let Object::Storage(kind) = self.objects[kind]
            && let Object::Text(name) = self.objects[name]
            && let Some(count) = self.number(count)
        {
            return Ok(Object::Stored { kind, name, count });
        }
        self.damaged("a storage is not described as PyTorch does")
    }

    fn call(&mut self) -> Result<Object<'p>, Wrong> {
        let (given, called) = (self.pop()?, self.pop()?);
        let Object::Tuple(items) = &self.objects[given] else {
            return self.damaged("a call has no arguments");
        };
        match (&self.objects[called], &items[..]) {
            (Object::Call(Callable::OrderedDict), []) => Ok(Object::Dict(Vec::new())),
            // What follows are flags of the gradient, which weights don't have.
            (Object::Call(Callable::Tensor), [storage, offset, shape, strides, ..]) => {
                self.tensor(*storage, *offset, *shape, *strides)
            }
            (Object::Call(Callable::Parameter), [tensor, ..])
                if matches!(self.objects[*tensor], Object::Tensor(_)) =>
            {
                Ok(self.objects[*tensor].clone())
            }
            _ => self.damaged("a call is not as PyTorch writes it"),
        }
    }

    fn tensor(&self, storage: Id, offset: Id, shape: Id, strides: Id) -> Result<Object<'p>, Wrong> {
        if let Object::Stored { kind, name, count } = self.objects[storage]
            && let Some(offset) = self.number(offset)
            && let Some(shape) = self.numbers(shape)
            && let Some(strides) = self.numbers(strides)
            && shape.len() == strides.len()
        {
            let tensor = PickledTensor { storage: name, kind, count, offset, shape, strides };
            return Ok(Object::Tensor(Box::new(tensor)));
        }
        self.damaged("a tensor is not described as PyTorch does")
    }

    /// Returns a whole number that is not negative.
    fn number(&self, id: Id) -> Option<u64> {
        match self.objects[id] {
            Object::Int(value) => u64::try_from(value).ok(),
            _ => None,
        }
    }

    fn numbers(&self, id: Id) -> Option<Vec<u64>> {
        match &self.objects[id] {
            Object::Tuple(items) if items.len() <= MAX_DIMS => {
                items.iter().map(|&item| self.number(item)).collect()
            }
            _ => None,
        }
    }
}
