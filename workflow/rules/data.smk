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
        files=files_behind("dataset"),
    shell:
        r"""
        exec > >(tee {log:q}) 2>&1
        python -m pipeline dataset --code {params.code} --spec {input.spec:q} --output {output.manifest:q}
        """


rule points:
    input:
        spec="results/{study}/spec/points/{matrix}.json",
    output:
        manifest="results/{study}/points/{matrix}/manifest.json",
    log:
        "results/{study}/logs/points/{matrix}.txt",
    benchmark:
        "results/{study}/benchmarks/points/{matrix}.tsv"
    wildcard_constraints:
        matrix=one_of(set(STUDY.matrices) - STUDY.embedded.keys()),
    resources:
        mem_mb=2000,
    params:
        code=code_digest("pipeline.stages.points"),
        files=files_behind("points/{matrix}"),
    shell:
        r"""
        exec > >(tee {log:q}) 2>&1
        python -m pipeline points --code {params.code} --spec {input.spec:q} --output {output.manifest:q}
        """


rule embeddings:
    input:
        spec="results/{study}/spec/points/{matrix}.json",
        network=lambda wildcards: manifest(f"convert/{STUDY.embedded[wildcards.matrix]}"),
        dataset="results/{study}/dataset/manifest.json",
    output:
        manifest="results/{study}/points/{matrix}/manifest.json",
    log:
        "results/{study}/logs/embeddings/{matrix}.txt",
    benchmark:
        "results/{study}/benchmarks/points/{matrix}.tsv"
    wildcard_constraints:
        matrix=one_of(STUDY.embedded),
    resources:
        mem_mb=2000,
    params:
        code=code_digest("pipeline.stages.embeddings"),
    shell:
        r"""
        exec > >(tee {log:q}) 2>&1
        python -m pipeline embeddings --code {params.code} --spec {input.spec:q} --network {input.network:q} \
            --dataset {input.dataset:q} --output {output.manifest:q}
        """
