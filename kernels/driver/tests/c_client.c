// A C program that knows no more than the name of a CUDA driver: loads it, checks what a header would promise, and
// runs a kernel whose arguments come as one buffer. Usage: c_client LIBRARY FILE.ptx

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOAD(name, ...) int (*name)(__VA_ARGS__) = (int (*)(__VA_ARGS__))dlsym(library, #name)
#define CHECK(call)                                                                                                    \
    do {                                                                                                               \
        int status = (call);                                                                                           \
        if (status) return fprintf(stderr, "%s gave %d\n", #call, status), 1;                                          \
    } while (0)

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    void *library = dlopen(argv[1], RTLD_NOW);
    if (!library) return fprintf(stderr, "%s\n", dlerror()), 1;
    LOAD(cuInit, unsigned);
    LOAD(cuDeviceGet, int *, int);
    LOAD(cuCtxCreate_v2, void **, unsigned, int);
    LOAD(cuModuleLoad, void **, const char *);
    LOAD(cuModuleGetFunction, void **, void *, const char *);
    LOAD(cuMemAlloc_v2, uint64_t *, size_t);
    LOAD(cuMemcpyHtoD_v2, uint64_t, const void *, size_t);
    LOAD(cuMemcpyDtoH_v2, void *, uint64_t, size_t);
    LOAD(cuLaunchKernel, void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **);
    LOAD(cuCtxSynchronize, void);
    LOAD(cuGetErrorName, int, const char **);
    LOAD(deltaw_last_fault, int, char *, size_t, size_t *);

    int device;
    void *context, *module, *saxpy;
    uint64_t x, y;
    float host[100];
    CHECK(cuInit(0));
    CHECK(cuDeviceGet(&device, 0));
    CHECK(cuCtxCreate_v2(&context, 0, device));
    CHECK(cuModuleLoad(&module, argv[2]));
    CHECK(cuModuleGetFunction(&saxpy, module, "saxpy"));
    CHECK(cuMemAlloc_v2(&x, sizeof host));
    CHECK(cuMemAlloc_v2(&y, sizeof host));
    for (int i = 0; i < 100; i++) host[i] = i;
    CHECK(cuMemcpyHtoD_v2(x, host, sizeof host));
    CHECK(cuMemcpyHtoD_v2(y, host, sizeof host));

    struct { uint32_t n; float a; uint64_t x, y; } arguments = {100, 2, x, y};
    size_t size = sizeof arguments;
    void *extra[] = {(void *)1, &arguments, (void *)2, &size, (void *)0};
    CHECK(cuLaunchKernel(saxpy, 4, 1, 1, 32, 1, 1, 0, NULL, NULL, extra));
    CHECK(cuMemcpyDtoH_v2(host, y, sizeof host));
    for (int i = 0; i < 100; i++)
        if (host[i] != 3 * i) return fprintf(stderr, "y[%d] = %g\n", i, host[i]), 1;

    // One element too many: with the checks, which are on by default, this is a fault, after which the context is dead.
    arguments.n = 101;
    CHECK(cuLaunchKernel(saxpy, 4, 1, 1, 32, 1, 1, 0, NULL, NULL, extra));
    const char *name = "";
    char fault[2000] = "";
    size_t length;
    cuGetErrorName(cuCtxSynchronize(), &name);
    printf("%s\n", name);
    cuGetErrorName(cuMemAlloc_v2(&x, 4), &name);
    printf("%s\n", name);
    CHECK(deltaw_last_fault(0, fault, sizeof fault, &length));
    printf("%s\n", fault);
    return 0;
}
