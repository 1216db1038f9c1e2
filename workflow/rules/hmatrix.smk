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
    threads: 2
    resources:
        mpi="mpiexec",
        nodes=of_a_matrix("compress", "nodes"),
        tasks=of_a_matrix("compress", "processes"),
        mem_mb=of_a_matrix("compress", "mem_mb"),
        threads_per_process=1,
    params:
        code=code_digest("pipeline.stages.compress"),
    shell:
        r"""
        exec > >(tee {log:q}) 2>&1
        export OMP_NUM_THREADS={resources.threads_per_process} OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
        {resources.mpi} -n {resources.tasks} python -m mpi4py -m pipeline compress --code {params.code} \
            --processes {resources.tasks} --spec {input.spec:q} --points {input.points:q} --output {output.manifest:q}
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
        nodes=of_a_matrix("solve", "nodes"),
        tasks=of_a_matrix("solve", "processes"),
        mem_mb=of_a_matrix("solve", "mem_mb"),
        threads_per_process=1,
    params:
        code=code_digest("pipeline.stages.solve"),
        files=files_behind("solve/{matrix}"),
    shell:
        r"""
        exec > >(tee {log:q}) 2>&1
        export OMP_NUM_THREADS={resources.threads_per_process} OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
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
