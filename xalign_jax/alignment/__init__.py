"""Pure functions of word alignment and of linear maps: arrays in, arrays out, no parameters and no state."""
