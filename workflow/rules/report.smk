rule report:
    input:
        spec="results/{study}/spec/report.json",
        artefacts=lambda wildcards: artefacts(wildcards.study),
        # Reports of the studies whose verdicts the page compares with its own.
        beside=lambda wildcards: [manifest("report", study) for study in STUDIES[wildcards.study].beside],
    output:
        manifest="results/{study}/report/manifest.json",
        page=report(
            "results/{study}/report/index.html",
            caption="../report/page.rst",
            category="The study",
        ),
    log:
        "results/{study}/logs/report.txt",
    benchmark:
        "results/{study}/benchmarks/report.tsv"
    resources:
        mem_mb=2000,
    params:
        code=code_digest("pipeline.stages.report"),
        benchmarks="results/{study}/benchmarks",
        # Written by the main process; a job opens no database.
        history="results/history/{study}.json",
    shell:
        # The spec names the artefacts: in a large study, their paths are too long for a command.
        r"""
        exec > >(tee {log:q}) 2>&1
        python -m pipeline report --code {params.code} --spec {input.spec:q} --benchmarks {params.benchmarks:q} \
            --history {params.history:q} --output {output.manifest:q}
        """
