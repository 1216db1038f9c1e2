"""Studies: what a user may write in a YAML file, validated before anything runs.

A study is one file merged over `config/default.yaml`. Every section is a frozen model that refuses unknown keys, so a
misspelled key is an error with its full path and never a silent default. Options of the cores are not repeated here:
`Choice` reads them from the cores' own frozen dataclasses. Each rule of the workflow reads one *spec*, the section that
`specs` cuts out for it. A changed value re-runs only that rule and those that depend on it.

This file imports nothing: a stage imports only the module of its own section, so its code digest covers no other core.
"""
