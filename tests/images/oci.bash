# Writing OCI images with umoci; sourced by the scripts that make test images, after guest/cache.bash.

# write_image DIR LAYER COMMAND: makes DIR/oci (an image layout with the tag latest) and DIR/image.tar (the same
# as an oci-archive) from a tar file, which it removes.
write_image() {
  local dir=$1 layer=$2 command=$3
  umoci init --layout "$dir/oci"
  umoci new --image "$dir/oci:latest"
  umoci raw add-layer --image "$dir/oci:latest" "$layer"
  umoci config --image "$dir/oci:latest" --config.cmd "$command" \
    --config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  # Each step above left an older manifest behind.
  umoci gc --layout "$dir/oci"
  tar --create --file "$dir/image.tar" --directory "$dir/oci" --sort=name --owner=0 --group=0 .
  rm "$layer"
}
