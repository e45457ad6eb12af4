#!/bin/sh
#
# nvcc_check NVCC: prints the reason, as a clause, if this nvcc cannot build the CUDA module, and nothing if it can.
# engine.mk calls this each time make starts, so it compiles nothing and checks only the version and one header.

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
    echo "$nvcc does not find cublasLt.h or does not support this compiler (try $nvcc -ccbin with an older one)"
fi
