#!/bin/sh
#
# nvcc_check NVCC: prints why this nvcc cannot build the CUDA module, in half a sentence; nothing when it can.
# engine.mk asks at every start of make, so there is no compilation here: only versions and a header.

nvcc=$1
if [ -z "$nvcc" ]; then
    echo "nvcc was not found"
    exit
fi
version=$("$nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9]*\)\.\([0-9]*\).*/\1.\2/p')
if [ -z "$version" ]; then
    echo "$nvcc does not run"
elif [ "${version%%.*}" -lt 12 ]; then
    echo "CUDA $version is too old (12 is needed)"
elif ! echo '#include <cublasLt.h>' | "$nvcc" -x cu -E - >/dev/null 2>&1; then
    echo "$nvcc does not find cublasLt.h, or refuses this compiler (try $nvcc -ccbin with an older one)"
fi
