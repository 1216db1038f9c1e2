rule dataset:
    input:
        spec="results/{study}/spec/dataset.json",
    output:
        manifest="results/{study}/dataset/manifest.json",
    log:
        "results/{study}/logs/dataset.txt",
    benchmark:
        "results/{study}/benchmarks/dataset.tsv"
    resources:
        mem_mb=2000,
    params:
        code=code_digest("pipeline.stages.dataset"),
    shell:
        r"""
        exec > >(tee {log:q}) 2>&1
        python -m pipeline dataset --code {params.code} --spec {input.spec:q} --output {output.manifest:q}
        """


rule points:
    input:
        unpack(points_inputs),
        spec="results/{study}/spec/points/{matrix}.json",
    output:
        manifest="results/{study}/points/{matrix}/manifest.json",
    log:
        "results/{study}/logs/points/{matrix}.txt",
    benchmark:
        "results/{study}/benchmarks/points/{matrix}.tsv"
    resources:
        mem_mb=2000,
    params:
        code=code_digest("pipeline.stages.points"),
        made_from=points_options,
    shell:
        r"""
        exec > >(tee {log:q}) 2>&1
        python -m pipeline points --code {params.code} --spec {input.spec:q} \
            {params.made_from:q} --output {output.manifest:q}
        """
