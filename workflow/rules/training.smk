rule train:
    input:
        spec="results/{study}/spec/training/{run}.json",
        dataset="results/{study}/dataset/manifest.json",
    output:
        manifest="results/{study}/train/{run}/seed{seed}/manifest.json",
    log:
        "results/{study}/logs/train/{run}/seed{seed}.txt",
    benchmark:
        "results/{study}/benchmarks/train/{run}/seed{seed}.tsv"
    resources:
        mpi="mpiexec",
        tasks=1,
        mem_mb=3000,
        # A matter of the machine, not of the study: changing it re-runs nothing.
        checkpoint_steps=20,
    params:
        code=code_digest("pipeline.stages.train"),
        checkpoints="results/checkpoints",
    shell:
        r"""
        exec > >(tee {log:q}) 2>&1
        {resources.mpi} -n {resources.tasks} python -m mpi4py -m pipeline train --code {params.code} \
            --processes {resources.tasks} --spec {input.spec:q} --dataset {input.dataset:q} \
            --run {wildcards.run:q} --seed {wildcards.seed} --checkpoints {params.checkpoints:q} \
            --checkpoint-steps {resources.checkpoint_steps} --output {output.manifest:q}
        """


rule clean_checkpoints:
    log:
        f"results/{STUDY.study}/logs/clean_checkpoints.txt",
    benchmark:
        f"results/{STUDY.study}/benchmarks/clean_checkpoints.tsv"
    localrule: True
    resources:
        mem_mb=100,
    params:
        checkpoints="results/checkpoints",
    shell:
        r"""
        exec > >(tee {log:q}) 2>&1
        python -m pipeline clean_checkpoints --checkpoints {params.checkpoints:q}
        """
