/* cli.h - the commands of `octet`. Each returns its exit code; mistakes of the user are in the Diag, which the caller prints. */
#ifndef OCTET_CLI_H
#define OCTET_CLI_H
#include "frontend/options.h"

int command_compile(const Options *o, Diag *d);
int command_quantize(const Options *o, Diag *d);
int command_run(const Options *o, Diag *d);
int command_verify(const Options *o, Diag *d);
int command_inspect(const Options *o, Diag *d);
int command_bench(const Options *o, Diag *d);
int command_operators(const Options *o, Diag *d);
#endif
