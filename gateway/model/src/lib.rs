//! The unified instance model: types, quantities, errors; no I/O.
