// shim.h - CUDA's words for a host C++ compiler: the texts of cuda_emit() run on the CPU, threads of a block as fibers.
//
// Every thread runs until it meets a barrier or ends; a barrier lets the others come to it first. So indexing, barriers and
// arithmetic are checked; memory races, warps and speed are not. Compile with -fwrapv -ffp-contract=off -DOCTET_HOST.
#pragma once
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <ucontext.h>
using std::acos; using std::acosh; using std::asin; using std::asinh; using std::atan; using std::atanh; using std::ceil;
using std::cos; using std::cosh; using std::erf; using std::exp; using std::fabs; using std::floor; using std::fma; using std::fmod;
using std::log; using std::log1p; using std::pow; using std::rint; using std::sin; using std::sinh; using std::sqrt; using std::tan;
using std::tanh; using std::trunc;
#define __global__
#define __shared__ static
struct ShimDim { unsigned x, y; };
static ShimDim threadIdx, blockIdx;
namespace shim {
enum { MAX_THREADS = 1024, STACK = 65536 };
static ucontext_t fiber[MAX_THREADS], scheduler;
static int current;
static bool done[MAX_THREADS];
static std::function<void()> *entry;
static void start() { (*entry)(); done[current] = true; }
}
static inline void __syncthreads() { swapcontext(&shim::fiber[shim::current], &shim::scheduler); }
static inline void launch(long long gx, long long gy, long long bx, long long by, std::function<void()> body)
{
    static char *stack = (char *)std::malloc((size_t)shim::MAX_THREADS * shim::STACK);
    shim::entry = &body;
    if (bx * by > shim::MAX_THREADS) std::abort();
    for (long long block = 0; block < gx * gy; block++) {
        for (int t = 0; t < bx * by; t++) {
            ucontext_t *c = &shim::fiber[t];
            getcontext(c);
            c->uc_stack.ss_sp = stack + (size_t)t * shim::STACK, c->uc_stack.ss_size = shim::STACK, c->uc_link = &shim::scheduler;
            shim::done[t] = false;
            makecontext(c, shim::start, 0);
        }
        for (long long left = bx * by; left;)
            for (int t = 0; t < bx * by; t++) {
                if (shim::done[t]) continue;
                shim::current = t;
                threadIdx = {(unsigned)(t % bx), (unsigned)(t / bx)}, blockIdx = {(unsigned)(block % gx), (unsigned)(block / gx)};
                swapcontext(&shim::scheduler, &shim::fiber[t]);
                left -= shim::done[t];
            }
    }
}
#define LAUNCH(kernel, gx, gy, bx, by, ...) [&] { int status = 0; launch(gx, gy, bx, by, [&] { kernel(__VA_ARGS__, &status); }); return status; }()
extern "C" void *device_put(const void *from, size_t bytes) { return std::memcpy(std::malloc(bytes), from, bytes); }
extern "C" void device_take(void *to, void *at, size_t bytes) { std::memcpy(to, at, bytes), std::free(at); }
