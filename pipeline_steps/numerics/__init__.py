"""Pure numerics: arrays in, arrays out; nothing here does I/O or knows datatrove."""
