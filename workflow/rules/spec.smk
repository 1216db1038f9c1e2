localrules:
    freeze_spec,


rule freeze_spec:
    output:
        spec="results/{study}/spec/{section}.json",
    log:
        "results/{study}/logs/freeze_spec/{section}.txt",
    benchmark:
        "results/{study}/benchmarks/freeze_spec/{section}.tsv"
    resources:
        mem_mb=100,
    params:
        section=frozen_section,
    shell:
        r"""
        printf '%s\n' {params.section:q} >{output.spec:q} 2>{log:q}
        """
