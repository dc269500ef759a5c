//! Checks of a spec that need nothing but the spec: every fault at once, each with its JSON pointer.
