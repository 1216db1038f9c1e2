"""What several stages do alike, one subject per file: a stage imports these and never another stage."""
