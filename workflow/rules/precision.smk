rule convert:
    input:
        weights=lambda wildcards: manifest(f"train/{wildcards.run}/seed{STUDY.seeds[wildcards.run][0]}"),
        dataset="results/{study}/dataset/manifest.json",
    output:
        manifest="results/{study}/convert/{run}/manifest.json",
    log:
        "results/{study}/logs/convert/{run}.txt",
    benchmark:
        "results/{study}/benchmarks/convert/{run}.tsv"
    resources:
        mem_mb=2000,
    params:
        code=code_digest("pipeline.stages.convert"),
        points=STUDY.budget_points,
    shell:
        r"""
        exec > >(tee {log:q}) 2>&1
        python -m pipeline convert --code {params.code} --weights {input.weights:q} \
            --dataset {input.dataset:q} --budget-points {params.points} --output {output.manifest:q}
        """


rule time_layers:
    input:
        spec="results/{study}/spec/precision.json",
        network="results/{study}/convert/{run}/manifest.json",
        dataset="results/{study}/dataset/manifest.json",
    output:
        manifest="results/{study}/time_layers/{run}/manifest.json",
    log:
        "results/{study}/logs/time_layers/{run}.txt",
    benchmark:
        "results/{study}/benchmarks/time_layers/{run}.tsv"
    # All cores of the machine: beside other jobs, a layer would take longer.
    threads: ALL_CORES
    resources:
        mem_mb=2000,
    params:
        code=code_digest("pipeline.stages.time_layers"),
    shell:
        r"""
        exec > >(tee {log:q}) 2>&1
        python -m pipeline time_layers --code {params.code} --spec {input.spec:q} --network {input.network:q} \
            --dataset {input.dataset:q} --output {output.manifest:q}
        """


rule convert_own:
    input:
        spec="results/{study}/spec/networks/{network}.json",
    output:
        manifest="results/{study}/convert/{network}/manifest.json",
    log:
        "results/{study}/logs/convert/{network}.txt",
    benchmark:
        "results/{study}/benchmarks/convert/{network}.tsv"
    resources:
        mem_mb=3000,
    params:
        code=code_digest("pipeline.stages.convert"),
        files=files_behind("networks/{network}"),
    shell:
        r"""
        exec > >(tee {log:q}) 2>&1
        python -m pipeline convert --code {params.code} --spec {input.spec:q} --output {output.manifest:q}
        """


rule time_own_layers:
    input:
        spec="results/{study}/spec/precision.json",
        network="results/{study}/convert/{network}/manifest.json",
    output:
        manifest="results/{study}/time_layers/{network}/manifest.json",
    log:
        "results/{study}/logs/time_layers/{network}.txt",
    benchmark:
        "results/{study}/benchmarks/time_layers/{network}.tsv"
    threads: ALL_CORES
    resources:
        mem_mb=3000,
    params:
        code=code_digest("pipeline.stages.time_layers"),
    shell:
        r"""
        exec > >(tee {log:q}) 2>&1
        python -m pipeline time_layers --code {params.code} --spec {input.spec:q} --network {input.network:q} \
            --output {output.manifest:q}
        """
