# The service as an image: built with TLS, SASL and OIDC, run as nobody in particular.

FROM rust:1.95-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libcurl4-openssl-dev libsasl2-dev libssl-dev pkg-config zlib1g-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
ARG FEATURES=oidc,sasl
# The caches stay on the builder, so that a change of the code does not compile every dependency again.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/target \
    CARGO_TARGET_DIR=/target cargo build --release --locked --features "$FEATURES" \
    && cp /target/release/forewarm /forewarm

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libcurl4 libsasl2-2 libsasl2-modules libssl3 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin forewarm \
    && install --directory --owner=forewarm --mode=0700 /var/lib/forewarm
COPY --from=build /forewarm /usr/local/bin/forewarm
# Every key with its default; mount another file over it, or set FOREWARM__SECTION__KEY.
COPY config/default.toml /etc/forewarm/config.toml
# A library that is missing should show here and not at the first start.
RUN forewarm --version && forewarm check-config --config /etc/forewarm/config.toml >/dev/null
ENV FOREWARM__ARTIFACTS__DIRECTORY=/var/lib/forewarm/artifacts \
    FOREWARM__EXECUTE__CACHE_DIRECTORY=/var/lib/forewarm/code
USER 10001
WORKDIR /var/lib/forewarm
VOLUME /var/lib/forewarm
# Signals reach it as process 1: see README.md. Kubernetes asks /health/ready and /health/live instead, at admin.listen.
HEALTHCHECK --interval=10s --timeout=15s --start-period=60s \
    CMD ["/usr/local/bin/forewarm", "health", "--config", "/etc/forewarm/config.toml"]
ENTRYPOINT ["/usr/local/bin/forewarm"]
CMD ["serve", "--config", "/etc/forewarm/config.toml"]
