# An image for TPU slices of GKE (tpu_scripts/xpk.sh), built from a clone:
#
#   docker build -f docker/tpu.Dockerfile -t IMAGE .
FROM python:3.11-slim
WORKDIR /opt/xalign_jax
COPY . .
RUN pip install --no-cache-dir -c constraints.txt '.[tpu,gcs]'
WORKDIR /srv
CMD ["xalign", "--help"]
