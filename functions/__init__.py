"""The deployed functions, one file each: parse, call the core, respond."""
