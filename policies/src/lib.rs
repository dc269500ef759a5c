//! Pure decisions: admission, quota arithmetic, rate, health, placement.
