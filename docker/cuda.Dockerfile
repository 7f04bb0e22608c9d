# An image for GPU hosts of Kubernetes (tpu_scripts/jobset.sh), built from a clone:
#
#   docker build -f docker/cuda.Dockerfile -t IMAGE .
#
# CUDA comes with jax[cuda13] as Python packages. The host brings the driver, 580 or newer.
FROM python:3.11-slim
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /opt/xalign_jax
COPY . .
RUN pip install --no-cache-dir -c constraints.txt '.[cuda,gcs]'
WORKDIR /srv
CMD ["xalign", "--help"]
