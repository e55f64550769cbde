# The container image. `cargo xtask image` builds the same one without Docker.
#
#   docker build --tag registry.example.com/lbstack/lbstack:0.1.0 .

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# Statically linked, so that the image contains only the binary. The cfg makes getrandom use the kernel only.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    target="$(uname -m)-unknown-linux-gnu" \
    && RUSTFLAGS='-C target-feature=+crt-static --cfg getrandom_backend="linux_getrandom"' \
       cargo build --profile dist --locked --package lbstack --target "$target" \
    && mkdir -p /image/tmp && chmod 1777 /image/tmp \
    && cp "target/$target/dist/lbstack" /image/lbstack

FROM scratch
COPY --from=build /image/ /
LABEL org.opencontainers.image.title="lbstack" \
      org.opencontainers.image.description="Load balancing for bare-metal Kubernetes" \
      org.opencontainers.image.licenses="Apache-2.0"
# Operator and controller run as nobody. The speaker's DaemonSet requests root and drops all capabilities except for raw
# sockets.
USER 65534:65534
ENTRYPOINT ["/lbstack"]
