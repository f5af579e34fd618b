/* octet_compiler.h - liboctet, the compiler as a library. For the artefacts' own interface see octet.h.
 *
 * Functions may be called one at a time per process. Running out of memory ends the process with exit code 70. */
#ifndef OCTET_COMPILER_H
#define OCTET_COMPILER_H
#include <stddef.h>
#ifdef __cplusplus
extern "C" {
#endif

#ifndef OCTET_PUBLIC
#if defined(__GNUC__)
#define OCTET_PUBLIC __attribute__((visibility("default")))
#else
#define OCTET_PUBLIC
#endif
#endif

/* The whole command line: argv[0] is ignored. Prints to standard output and standard error, returns the exit code:
 * 0 done, 1 the model or the data is wrong, 2 usage, 70 internal. */
OCTET_PUBLIC int octet_main(int argc, char **argv);

/* `octet compile MODEL -o OUT OPTIONS...`. Returns the exit code; what is wrong is in error, one line each, cut to its size. */
OCTET_PUBLIC int octet_compile(const char *model, const char *out, int options, const char *const *option, char *error, size_t error_size);

OCTET_PUBLIC const char *octet_version(void);

#ifdef __cplusplus
}
#endif
#endif
