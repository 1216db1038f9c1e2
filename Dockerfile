# Parsimony with all that a study needs: docker build -t parsimony . && docker run -v "$PWD/results:/parsimony/results" parsimony
FROM python:3.11-slim-bookworm
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /parsimony
COPY . .
RUN make env
ENV PATH="/parsimony/.venv/bin:$PATH"
CMD ["make", "run", "STUDY=tiny"]
