# Everything, with CUDA wheels of torch:   docker build -t talkinghead . && docker run --gpus all talkinghead train --help
FROM python:3.12-slim
RUN apt-get update && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY conf conf
COPY talkinghead talkinghead
RUN pip install --no-cache-dir --constraint constraints.txt '.[train,offline,provenance,studio]'
WORKDIR /work
ENTRYPOINT ["talkinghead"]
CMD ["--help"]
