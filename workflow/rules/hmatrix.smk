rule compress:
    input:
        spec="results/{study}/spec/compress/{matrix}.json",
        points="results/{study}/points/{matrix}/manifest.json",
    output:
        manifest="results/{study}/compress/{matrix}/manifest.json",
    log:
        "results/{study}/logs/compress/{matrix}.txt",
    benchmark:
        "results/{study}/benchmarks/compress/{matrix}.tsv"
    resources:
        mem_mb=4000,
    params:
        code=code_digest("pipeline.stages.compress"),
    shell:
        r"""
        exec > >(tee {log:q}) 2>&1
        python -m pipeline compress --code {params.code} --spec {input.spec:q} --points {input.points:q} \
            --output {output.manifest:q}
        """


rule solve:
    input:
        spec="results/{study}/spec/solve/{matrix}.json",
        points="results/{study}/points/{matrix}/manifest.json",
        operator="results/{study}/compress/{matrix}/manifest.json",
    output:
        manifest="results/{study}/solve/{matrix}/manifest.json",
    log:
        "results/{study}/logs/solve/{matrix}.txt",
    benchmark:
        "results/{study}/benchmarks/solve/{matrix}.tsv"
    threads: 2
    resources:
        mpi="mpiexec",
        tasks=2,
        mem_mb=6000,
    params:
        code=code_digest("pipeline.stages.solve"),
        files=files_behind("solve/{matrix}"),
    shell:
        r"""
        exec > >(tee {log:q}) 2>&1
        # The cores are for the processes: threads on top of them would fight over each.
        export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
        {resources.mpi} -n {resources.tasks} python -m mpi4py -m pipeline solve --code {params.code} \
            --processes {resources.tasks} --spec {input.spec:q} --points {input.points:q} --operator {input.operator:q} --output {output.manifest:q}
        """


rule scaling:
    input:
        spec="results/{study}/spec/scaling.json",
    output:
        manifest="results/{study}/scaling/manifest.json",
    log:
        "results/{study}/logs/scaling.txt",
    benchmark:
        "results/{study}/benchmarks/scaling.tsv"
    threads: ALL_CORES
    resources:
        mem_mb=4000,
    params:
        code=code_digest("pipeline.stages.scaling"),
    shell:
        r"""
        exec > >(tee {log:q}) 2>&1
        python -m pipeline scaling --code {params.code} --spec {input.spec:q} --output {output.manifest:q}
        """
