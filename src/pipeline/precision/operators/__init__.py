"""How torch's operators become layers, one file for each kind of operator."""
