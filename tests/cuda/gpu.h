// gpu.h - what the texts of cuda_emit() need to run on a GPU through nvcc: the sibling of shim.h. Compile with -fmad=false -DOCTET_HOST.
#pragma once
#include <cstdio>
#include <cstdlib>
namespace gpu {
static void check(cudaError_t e, const char *what)
{
    if (e == cudaSuccess) return;
    std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(e));
    std::abort();
}
}
extern "C" void *device_put(const void *from, size_t bytes)
{
    void *at = nullptr;
    gpu::check(cudaMalloc(&at, bytes ? bytes : 1), "cudaMalloc");
    gpu::check(cudaMemcpy(at, from, bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
    return at;
}
extern "C" void device_take(void *to, void *at, size_t bytes)
{
    gpu::check(cudaMemcpy(to, at, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
    gpu::check(cudaFree(at), "cudaFree");
}
namespace gpu {
template <class Body> static int launch(const char *name, Body body)
{
    int status = 0, *at = (int *)device_put(&status, sizeof status);
    body(at);
    check(cudaGetLastError(), name);
    check(cudaDeviceSynchronize(), name);
    device_take(&status, at, sizeof status);
    return status;
}
}
#define LAUNCH(kernel, gx, gy, bx, by, ...) \
    gpu::launch(#kernel, [&](int *status) { kernel<<<dim3(gx, gy), dim3(bx, by)>>>(__VA_ARGS__, status); })
