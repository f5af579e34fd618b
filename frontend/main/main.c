/* main.c - the program `octet`: everything is in the library. */
#include "octet_compiler.h"

int main(int argc, char **argv) { return octet_main(argc, argv); }
