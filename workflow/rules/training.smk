rule tune:
    input:
        spec="results/{study}/spec/tuning/{run}.json",
        dataset="results/{study}/dataset/manifest.json",
    output:
        manifest="results/{study}/tune/{run}/manifest.json",
    log:
        "results/{study}/logs/tune/{run}.txt",
    benchmark:
        "results/{study}/benchmarks/tune/{run}.tsv"
    resources:
        mpi="mpiexec",
        tasks=1,
        mem_mb=3000,
    params:
        code=code_digest("pipeline.stages.tune"),
        checkpoints="results/checkpoints",
    shell:
        r"""
        exec > >(tee {log:q}) 2>&1
        {resources.mpi} -n {resources.tasks} python -m mpi4py -m pipeline tune --code {params.code} \
            --processes {resources.tasks} --spec {input.spec:q} --dataset {input.dataset:q} \
            --run {wildcards.run:q} --checkpoints {params.checkpoints:q} --output {output.manifest:q}
        """


rule train:
    input:
        spec="results/{study}/spec/training/{run}.json",
        dataset="results/{study}/dataset/manifest.json",
        # Only for runs whose options are chosen by trials.
        tuning=lambda wildcards: (
            [manifest(f"tune/{wildcards.run}", wildcards.study)]
            if wildcards.run in STUDIES[wildcards.study].tuned
            else []
        ),
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
        # A property of the machine, not of the study: changing it re-runs nothing.
        checkpoint_steps=20,
        # So is this one: 1 writes files for TensorBoard beside the log, for `tensorboard --logdir results/STUDY/logs`.
        tensorboard=0,
    params:
        code=code_digest("pipeline.stages.train"),
        checkpoints="results/checkpoints",
        curves="results/{study}/logs/train/{run}/seed{seed}.jsonl",
        tuning=lambda wildcards, input: shlex.join(["--tuning", *input.tuning]) if input.tuning else "",
    shell:
        r"""
        exec > >(tee {log:q}) 2>&1
        {resources.mpi} -n {resources.tasks} python -m mpi4py -m pipeline train --code {params.code} \
            --processes {resources.tasks} --spec {input.spec:q} --dataset {input.dataset:q} {params.tuning} \
            --run {wildcards.run:q} --seed {wildcards.seed} --checkpoints {params.checkpoints:q} \
            --checkpoint-steps {resources.checkpoint_steps} --tensorboard {resources.tensorboard} \
            --curves {params.curves:q} --output {output.manifest:q}
        """


rule predict:
    input:
        spec="results/{study}/spec/predict.json",
        networks=lambda wildcards: [
            manifest(f"train/{run}/seed{seed}", wildcards.study)
            for run in STUDIES[wildcards.study].specs["predict"]["sweeps"].values()
            for seed in STUDIES[wildcards.study].seeds[run]
        ],
    output:
        manifest="results/{study}/predict/manifest.json",
    log:
        "results/{study}/logs/predict.txt",
    benchmark:
        "results/{study}/benchmarks/predict.tsv"
    resources:
        mem_mb=1000,
    params:
        code=code_digest("pipeline.stages.predict"),
    shell:
        r"""
        exec > >(tee {log:q}) 2>&1
        python -m pipeline predict --code {params.code} --spec {input.spec:q} --output {output.manifest:q} \
            {input.networks:q}
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
