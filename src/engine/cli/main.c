/*
 * main.c
 *     The program ia3_engine: parses the command line and runs the command.
 */
#include "cli.h"
#include "engine/serve/serve.h"

#include <string.h>

int
main(int argc, char **argv)
{
    ia3_options options;
    int status = ia3_options_parse(&options, argc, argv);
    if (status >= 0)
        return status;
    if (strcmp(options.command, "serve") == 0)
        return ia3_serve(&options);
    return ia3_cli(&options);
}
