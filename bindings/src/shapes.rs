//! Calls that look like an earlier one: the same names in the same order, each with a float or an integer.
//!
//! A training loop logs the same names again and again. The record of such a call is kept, and the next one only puts
//! its values, step and moment into it: a name is looked at by the address of its string alone, nothing is allocated,
//! and no Python code runs.

#![expect(
    unsafe_code,
    reason = "reads dicts by the C API, with borrowed references: the GIL is held, and nothing here runs Python code"
)]

use std::ptr::null_mut;

use expman_model::codec::Reader;
use expman_model::record::POINTS_AT;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

/// A float's kind and an integer's; eight bytes follow either.
const FLOAT: u8 = 0;
const INT: u8 = 1;
/// Names of a call that is remembered.
const NAMES_MAX: usize = 4096;
/// Calls are remembered in as many places, by their first name and number of names …
const PLACES: usize = 16;
/// … each of which has room for as many that differ in other names only.
const ROOMS: usize = 2;

/// See the module.
struct Shape {
    /// Held, so that an address goes on meaning one name.
    names: Box<[Py<PyString>]>,
    /// Where the kind of each value stands in the record.
    places: Box<[u32]>,
    record: Vec<u8>,
}

/// What is remembered of calls in one room of a place.
#[derive(Default)]
enum Known {
    #[default]
    Nothing,
    Shape(Box<Shape>),
    /// It was encoded in full, and has values of other kinds.
    Other,
}

/// Calls with the same first name and number of names, as far as a thread remembers them.
#[derive(Default)]
struct Place {
    identity: (usize, usize),
    /// Whether such a call came before: whoever comes twice is remembered.
    came: bool,
    rooms: [Known; ROOMS],
    /// The room that is given to the next one.
    next: usize,
}

/// What a thread remembers.
#[derive(Default)]
pub(crate) struct Shapes {
    places: [Place; PLACES],
    /// Whether the call that is being encoded is worth remembering.
    wanted: bool,
}

impl Shapes {
    /// The record of a call like an earlier one, with its values; step and moment are still those of the earlier one.
    #[inline]
    pub(crate) fn fill(&mut self, metrics: &Bound<'_, PyDict>) -> Option<&mut [u8]> {
        self.wanted = false;
        let mut entries = Entries::of(metrics);
        let first = entries.next()?;
        let identity = (first.0 as usize, metrics.len());
        let place = &mut self.places[place_of(identity)];
        if place.identity != identity {
            *place = Place {
                identity,
                ..Place::default()
            };
        }
        let fits = |known: &mut Known| match known {
            Known::Shape(shape) => shape.take(first, entries.clone()),
            Known::Nothing | Known::Other => false,
        };
        if let Some(at) = place.rooms.iter_mut().position(fits) {
            return match &mut place.rooms[at] {
                Known::Shape(shape) => Some(&mut shape.record),
                Known::Nothing | Known::Other => None,
            };
        }
        let is_other = matches!(place.rooms[0], Known::Other);
        self.wanted = !is_other && std::mem::replace(&mut place.came, true);
        None
    }

    /// Remembers the call that [`Shapes::fill`] knew nothing of and that was encoded as `record`, if it is worth it.
    pub(crate) fn learn(&mut self, metrics: &Bound<'_, PyDict>, record: &[u8]) -> Option<()> {
        if !std::mem::take(&mut self.wanted) {
            return None;
        }
        let (name, _) = Entries::of(metrics).next()?;
        let place = &mut self.places[place_of((name as usize, metrics.len()))];
        if let Some(shape) = Shape::of(metrics, record) {
            place.rooms[place.next] = Known::Shape(Box::new(shape));
            place.next = (place.next + 1) % ROOMS;
        } else {
            place.rooms = [Known::Other, Known::Other];
        }
        place.came = false;
        Some(())
    }
}

impl Shape {
    fn of(metrics: &Bound<'_, PyDict>, record: &[u8]) -> Option<Self> {
        if metrics.len() > NAMES_MAX {
            return None;
        }
        let names: Result<Box<[_]>, _> = metrics
            .iter()
            .map(|(name, _)| name.cast_into::<PyString>().map(Bound::unbind))
            .collect();
        let mut points = Reader::new(record.get(POINTS_AT..)?);
        let mut places = Vec::with_capacity(metrics.len());
        while !points.is_empty() {
            points.bytes("name").ok()?;
            let place = record.len() - points.rest().len();
            places.push(u32::try_from(place).ok()?);
            if !matches!(points.u8("kind"), Ok(FLOAT | INT)) {
                return None;
            }
            points.u64("value").ok()?;
        }
        let names = names.ok()?;
        (names.len() == places.len()).then(|| Self {
            names,
            places: places.into(),
            record: record.to_owned(),
        })
    }

    /// Puts the values of a dict with as many entries into the record; false, and the record is of no use, when it is
    /// of another shape. The first entry is known to have the first name.
    #[inline]
    fn take(&mut self, first: Entry, mut others: Entries<'_>) -> bool {
        let mut entry = Some(first);
        for (known, place) in self.names.iter().zip(&self.places) {
            let Some((name, value)) = entry.take().or_else(|| others.next()) else {
                return false;
            };
            if name != known.as_ptr() {
                return false;
            }
            let slot = self.record.get_mut(*place as usize..);
            let slot = slot.and_then(|rest| rest.first_chunk_mut::<9>());
            let (Some((kind, bits)), Some(slot)) = (number(value), slot) else {
                return false;
            };
            slot[0] = kind;
            slot[1..].copy_from_slice(&bits.to_le_bytes());
        }
        true
    }
}

/// A name and its value, borrowed from a dict.
type Entry = (*mut ffi::PyObject, *mut ffi::PyObject);

/// Names and values of a dict, borrowed from it: nobody may change it meanwhile.
#[derive(Clone)]
struct Entries<'a> {
    dict: &'a Bound<'a, PyDict>,
    at: ffi::Py_ssize_t,
}

impl<'a> Entries<'a> {
    const fn of(dict: &'a Bound<'a, PyDict>) -> Self {
        Self { dict, at: 0 }
    }

    #[inline]
    fn next(&mut self) -> Option<Entry> {
        let (mut name, mut value) = (null_mut(), null_mut());
        let found = unsafe {
            ffi::PyDict_Next(
                self.dict.as_ptr(),
                &raw mut self.at,
                &raw mut name,
                &raw mut value,
            )
        };
        (found != 0).then_some((name, value))
    }
}

/// The kind and the bits of a value that is a float, one of NumPy included, or a plain integer of 64 bits.
#[inline]
fn number(value: *mut ffi::PyObject) -> Option<(u8, u64)> {
    if unsafe { ffi::PyFloat_Check(value) } != 0 {
        // Of a float, whatever its class, this reads the number.
        return Some((FLOAT, unsafe { ffi::PyFloat_AsDouble(value) }.to_bits()));
    }
    whole(value).map(|number| (INT, number.cast_unsigned()))
}

/// A plain integer of 64 bits.
#[inline]
pub(crate) fn whole(value: *mut ffi::PyObject) -> Option<i64> {
    unsafe {
        if ffi::PyLong_CheckExact(value) == 0 {
            return None;
        }
        let mut beyond = 0;
        let number = ffi::PyLong_AsLongLongAndOverflow(value, &raw mut beyond);
        (beyond == 0).then_some(number)
    }
}

/// Where a call is remembered, by its first name and its number of names.
#[inline]
const fn place_of((name, names): (usize, usize)) -> usize {
    ((name >> 4) ^ names) % PLACES
}
