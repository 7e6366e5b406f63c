//! Measurements, as JSON lines: `{"name", "value", "unit", "goal", …}`. Nothing here fails on a
//! number; `docs/benchmarks.md` says what was seen.
