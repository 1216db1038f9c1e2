"""Code that several stages share, one subject per file: a stage imports these files and never another stage."""
