//! A reader of pickles that knows what PyTorch's state dicts are made of, and nothing else.
//!
//! A pickle is a program for a stack machine that may call anything. This one calls nothing: it knows
//! dicts, lists, tuples, texts, numbers, and the few names that stand for tensors and their storages.
//! Any other name ends in an error. Opcodes: Python's `pickletools`; what PyTorch writes:
//! `torch/_utils.py` (`_rebuild_tensor_v2`, `_rebuild_tensor_v3`, `_rebuild_parameter`) and
//! `torch/serialization.py` (persistent ids of storages).
//!
//! Values lie in one list and name each other by number, so that neither depth nor cycles matter, and
//! memory is in proportion to the pickle.

use std::collections::HashMap;

/// What is wrong with a pickle, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) what: String,
    pub(super) help: &'static str,
}

/// A tensor as a state dict names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tensor<'a> {
    /// As PyTorch spells it: `BFloat16Storage`, or `bfloat16` for a storage without a type.
    pub(super) dtype: &'a str,
    /// Its storage's name in the archive.
    pub(super) storage: &'a str,
    /// Length of the storage: elements, or bytes if it has no type.
    pub(super) length: usize,
    /// Elements of the storage before the tensor.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// The values of a pickle.
#[derive(Debug)]
pub(super) struct Values<'a> {
    pub(super) all: Vec<Value<'a>>,
    pub(super) root: Id,
}

/// A value's number.
pub(super) type Id = u32;

/// A value, as far as it matters.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    /// None, a float, bytes.
    Other,
    Number(i64),
    Text(&'a str),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Tensor(Tensor<'a>),
    Storage(Storage<'a>),
    Name(Name<'a>),
}

/// A storage, by its persistent id.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage<'a> {
    dtype: &'a str,
    name: &'a str,
    length: usize,
}

/// A name that a state dict may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name<'a> {
    OrderedDict,
    Size,
    Tensor2,
    Tensor3,
    Parameter,
    Storage(&'a str),
    Dtype(&'a str),
}

const AGAIN: &str = "download the file again";
const UNUSUAL: &str = "in PyTorch, save only the model's state dict: torch.save(model.state_dict(), path), or safetensors.torch.save_file";
/// More dimensions than any weight has.
const DIMENSIONS: usize = 16;
/// More values than a state dict of 100,000 tensors has.
const VALUES: usize = 4_000_000;

/// Reads a pickle of protocol 2 to 5.
///
/// # Errors
/// A [`Fault`] for whatever is not part of a state dict, and for damage.
pub(super) fn read(bytes: &[u8]) -> Result<Values<'_>, Fault> {
    let mut machine = Machine {
        bytes,
        at: 0,
        all: vec![],
        stack: vec![],
        marks: vec![],
        memo: HashMap::new(),
    };
    loop {
        if let Some(root) = machine.step()? {
            let all = machine.all;
            return Ok(Values { all, root });
        }
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    all: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// The stack's length at each mark that stands.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl<'a> Machine<'a> {
    /// One instruction; the root, if it was the last.
    fn step(&mut self) -> Result<Option<Id>, Fault> {
        let at = self.at;
        let code = self.take(1)?[0];
        match code {
            // PROTO and FRAME.
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.above_mark()?),
            b'N' => self.push(Value::Other)?,
            0x88 => self.push(Value::Number(1))?,
            0x89 => self.push(Value::Number(0))?,
            b'K' => self.number(1)?,
            b'M' => self.number(2)?,
            b'J' => {
                let four = self.take(4)?.first_chunk().copied();
                let number = i32::from_le_bytes(four.ok_or_else(|| self.damaged())?);
                self.push(Value::Number(i64::from(number)))?;
            }
            0x8a => self.long()?,
            b'G' => self.other(8)?,
            // Texts with lengths of 4, 1 and 8 bytes.
            b'X' => self.text(4)?,
            0x8c => self.text(1)?,
            0x8d => self.text(8)?,
            // Bytes: SHORT_BINBYTES, BINBYTES, and the strings of Python 2.
            b'C' | b'U' => self.opaque(1)?,
            b'B' | b'T' => self.opaque(4)?,
            b'}' => self.push(Value::Dict(vec![]))?,
            b']' => self.push(Value::List(vec![]))?,
            b')' => self.push(Value::Tuple(vec![]))?,
            b't' => {
                let items = self.above_mark()?;
                self.push(Value::Tuple(items))?;
            }
            0x85..=0x87 => {
                let items = self.top(usize::from(code - 0x84))?;
                self.push(Value::Tuple(items))?;
            }
            b's' => {
                let pair = self.top(2)?;
                self.set(&pair)?;
            }
            b'u' => {
                let pairs = self.above_mark()?;
                self.set(&pairs)?;
            }
            b'a' => {
                let item = self.top(1)?;
                self.append(&item)?;
            }
            b'e' => {
                let items = self.above_mark()?;
                self.append(&items)?;
            }
            b'q' => self.put(1)?,
            b'r' => self.put(4)?,
            0x94 => {
                let (number, id) = (self.memo.len() as u64, self.last()?);
                self.memo.insert(number, id);
            }
            b'h' => self.get(1)?,
            b'j' => self.get(4)?,
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.name(module, name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (module, name) = (self.as_text(module)?, self.as_text(name)?);
                self.name(module, name)?;
            }
            b'R' => self.call()?,
            // The state of an object, which for a dict is what it is called by and how it was made.
            b'b' => drop(self.pop()?),
            b'Q' => self.storage()?,
            b'.' => return Ok(Some(self.pop()?)),
            _ => {
                return Err(Fault {
                    what: format!(
                        "its pickle has instruction 0x{code:02x} at byte {at}, which no state dict has"
                    ),
                    help: UNUSUAL,
                });
            }
        }
        Ok(None)
    }

    fn damaged(&self) -> Fault {
        Fault {
            what: format!("its pickle is damaged before byte {}", self.at),
            help: AGAIN,
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let taken = self
            .at
            .checked_add(count)
            .and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| Fault {
            what: format!(
                "its pickle ends after {} bytes, in the middle",
                self.bytes.len()
            ),
            help: AGAIN,
        })?;
        self.at += count;
        Ok(taken)
    }

    /// A number without sign, of at most eight bytes.
    fn unsigned(&mut self, bytes: usize) -> Result<u64, Fault> {
        let mut wide = [0; 8];
        wide[..bytes].copy_from_slice(self.take(bytes)?);
        Ok(u64::from_le_bytes(wide))
    }

    fn length(&mut self, bytes: usize) -> Result<usize, Fault> {
        usize::try_from(self.unsigned(bytes)?).map_err(|_| self.damaged())
    }

    fn push(&mut self, value: Value<'a>) -> Result<(), Fault> {
        if self.all.len() >= VALUES {
            let what = format!("its pickle has more than {VALUES} values");
            return Err(Fault {
                what,
                help: UNUSUAL,
            });
        }
        self.stack.push(self.all.len() as Id);
        self.all.push(value);
        Ok(())
    }

    fn last(&self) -> Result<Id, Fault> {
        self.stack.last().copied().ok_or_else(|| self.damaged())
    }

    fn pop(&mut self) -> Result<Id, Fault> {
        // What lies under a mark belongs to what was begun before it.
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(self.damaged());
        }
        self.stack.pop().ok_or_else(|| self.damaged())
    }

    fn top(&mut self, count: usize) -> Result<Vec<Id>, Fault> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let begin = self.stack.len().checked_sub(count);
        let begin = begin
            .filter(|&begin| begin >= floor)
            .ok_or_else(|| self.damaged())?;
        Ok(self.stack.split_off(begin))
    }

    fn above_mark(&mut self) -> Result<Vec<Id>, Fault> {
        let mark = self.marks.pop().filter(|&mark| mark <= self.stack.len());
        let mark = mark.ok_or_else(|| self.damaged())?;
        Ok(self.stack.split_off(mark))
    }

    fn number(&mut self, bytes: usize) -> Result<(), Fault> {
        let number = self.unsigned(bytes)? as i64;
        self.push(Value::Number(number))
    }

    /// A number of up to eight bytes with a sign; longer ones are no size of anything.
    fn long(&mut self) -> Result<(), Fault> {
        let bytes = self.length(1)?;
        let taken = self.take(bytes)?;
        if bytes > 8 {
            return self.push(Value::Other);
        }
        let sign = taken.last().is_some_and(|last| last & 0x80 != 0);
        let mut wide = [if sign { 0xff } else { 0 }; 8];
        wide[..bytes].copy_from_slice(taken);
        self.push(Value::Number(i64::from_le_bytes(wide)))
    }

    fn other(&mut self, bytes: usize) -> Result<(), Fault> {
        self.take(bytes)?;
        self.push(Value::Other)
    }

    fn opaque(&mut self, bytes: usize) -> Result<(), Fault> {
        let length = self.length(bytes)?;
        self.other(length)
    }

    fn text(&mut self, bytes: usize) -> Result<(), Fault> {
        let length = self.length(bytes)?;
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| self.damaged())?;
        self.push(Value::Text(text))
    }

    fn line(&mut self) -> Result<&'a str, Fault> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().take(1024).position(|&byte| byte == b'\n');
        let line = self.take(end.ok_or_else(|| self.damaged())? + 1)?;
        std::str::from_utf8(&line[..line.len() - 1]).map_err(|_| self.damaged())
    }

    fn put(&mut self, bytes: usize) -> Result<(), Fault> {
        let (number, id) = (self.unsigned(bytes)?, self.last()?);
        self.memo.insert(number, id);
        Ok(())
    }

    fn get(&mut self, bytes: usize) -> Result<(), Fault> {
        let number = self.unsigned(bytes)?;
        let id = self.memo.get(&number).copied();
        self.stack.push(id.ok_or_else(|| self.damaged())?);
        Ok(())
    }

    fn set(&mut self, pairs: &[Id]) -> Result<(), Fault> {
        let (into, fault) = (self.last()?, self.damaged());
        let Value::Dict(dict) = &mut self.all[into as usize] else {
            return Err(fault);
        };
        let (pairs, []) = pairs.as_chunks::<2>() else {
            return Err(fault);
        };
        dict.extend(pairs.iter().map(|&[key, value]| (key, value)));
        Ok(())
    }

    fn append(&mut self, items: &[Id]) -> Result<(), Fault> {
        let (into, fault) = (self.last()?, self.damaged());
        let Value::List(list) = &mut self.all[into as usize] else {
            return Err(fault);
        };
        list.extend(items);
        Ok(())
    }

    fn name(&mut self, module: &'a str, name: &'a str) -> Result<(), Fault> {
        // Types of numbers are names in lower case, such as torch.bfloat16.
        let dtype = |name: &str| {
            [
                "float", "bfloat", "double", "half", "int", "uint", "bool", "complex",
            ]
            .iter()
            .any(|start| name.starts_with(start))
        };
        let known = match (module, name) {
            ("collections", "OrderedDict") => Name::OrderedDict,
            ("torch", "Size") => Name::Size,
            ("torch._utils", "_rebuild_tensor_v2") => Name::Tensor2,
            ("torch._utils", "_rebuild_tensor_v3") => Name::Tensor3,
            ("torch._utils", "_rebuild_parameter") => Name::Parameter,
            ("torch" | "torch.cuda" | "torch.storage", name) if name.ends_with("Storage") => {
                Name::Storage(name)
            }
            ("torch", name) if dtype(name) => Name::Dtype(name),
            _ => {
                return Err(Fault {
                    what: format!(
                        "its pickle would make {module}.{name}, which is no part of a state dict; nothing of it was run"
                    ),
                    help: UNUSUAL,
                });
            }
        };
        self.push(Value::Name(known))
    }

    /// Calls, as far as that means to know what a tensor is.
    fn call(&mut self) -> Result<(), Fault> {
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let fault = self.damaged();
        let (Value::Name(callee), Value::Tuple(arguments)) =
            (&self.all[callee as usize], &self.all[arguments as usize])
        else {
            return Err(fault);
        };
        let value = match (callee, &arguments[..]) {
            (Name::OrderedDict, []) => Value::Dict(vec![]),
            (Name::Size, [sizes]) => match &self.all[*sizes as usize] {
                Value::Tuple(_) | Value::List(_) => Value::Other,
                _ => return Err(fault),
            },
            (Name::Tensor2, [storage, offset, shape, strides, ..]) => {
                Value::Tensor(self.tensor(*storage, None, [*offset, *shape, *strides])?)
            }
            (Name::Tensor3, [storage, offset, shape, strides, _, _, dtype, ..]) => {
                let Value::Name(Name::Dtype(dtype)) = self.all[*dtype as usize] else {
                    return Err(fault);
                };
                Value::Tensor(self.tensor(*storage, Some(dtype), [*offset, *shape, *strides])?)
            }
            (Name::Parameter, [data, ..]) => match &self.all[*data as usize] {
                Value::Tensor(tensor) => Value::Tensor(tensor.clone()),
                _ => return Err(fault),
            },
            _ => return Err(fault),
        };
        self.push(value)
    }

    fn tensor(
        &self,
        storage: Id,
        dtype: Option<&'a str>,
        [offset, shape, strides]: [Id; 3],
    ) -> Result<Tensor<'a>, Fault> {
        let Value::Storage(storage) = self.all[storage as usize] else {
            return Err(self.damaged());
        };
        if dtype.is_none() && storage.dtype == "UntypedStorage" {
            return Err(self.damaged());
        }
        let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
        if shape.len() != strides.len() {
            return Err(self.damaged());
        }
        Ok(Tensor {
            dtype: dtype.unwrap_or(storage.dtype),
            storage: storage.name,
            length: storage.length,
            offset: self.size(offset)?,
            shape,
            strides,
        })
    }

    /// A storage by its persistent id: ("storage", type, name, device, length).
    fn storage(&mut self) -> Result<(), Fault> {
        let id = self.pop()?;
        let Value::Tuple(parts) = &self.all[id as usize] else {
            return Err(self.damaged());
        };
        let &[kind, dtype, name, _, length] = &parts[..] else {
            return Err(self.damaged());
        };
        let Value::Name(Name::Storage(dtype)) = self.all[dtype as usize] else {
            return Err(self.damaged());
        };
        if self.as_text(kind)? != "storage" {
            return Err(self.damaged());
        }
        let storage = Storage {
            dtype,
            name: self.as_text(name)?,
            length: self.size(length)?,
        };
        self.push(Value::Storage(storage))
    }

    fn as_text(&self, id: Id) -> Result<&'a str, Fault> {
        match self.all[id as usize] {
            Value::Text(text) => Ok(text),
            _ => Err(self.damaged()),
        }
    }

    fn size(&self, id: Id) -> Result<usize, Fault> {
        match self.all[id as usize] {
            Value::Number(number) => usize::try_from(number).map_err(|_| self.damaged()),
            _ => Err(self.damaged()),
        }
    }

    fn sizes(&self, id: Id) -> Result<Vec<usize>, Fault> {
        match &self.all[id as usize] {
            Value::Tuple(sizes) if sizes.len() <= DIMENSIONS => {
                sizes.iter().map(|&id| self.size(id)).collect()
            }
            _ => Err(self.damaged()),
        }
    }
}
