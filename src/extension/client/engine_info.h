/*
 * engine_info.h
 *     What an engine says about itself (INFO_OK).
 */
#ifndef IA3_ENGINE_INFO_H
#define IA3_ENGINE_INFO_H

#include "common/protocol.h"
#include "common/wire.h"

/* A PEFT method that the engine has. */
#define IA3_MAX_METHODS 16
typedef struct Ia3EngineMethod {
    char name[32];
    double learningRate; /* the default, like the number of steps */
    uint32 steps;
    uint64 values; /* numbers in one adapter with the default options */
    uint32 nOptions;
    char noMean[160]; /* why a mean of adapters does not do what they do on average; empty if it does */
} Ia3EngineMethod;

/* What a number of a TRAIN request may be. */
#define IA3_MAX_LIMITS 16
typedef struct Ia3EngineLimit {
    char name[32];
    double min, max;
} Ia3EngineLimit;

typedef struct Ia3EngineInfo {
    char name[NAMEDATALEN];
    char path[MAXPGPATH];
    char device[32];
    char deviceDescription[128];
    char dtype[16];
    char modelType[16];
    uint8 digest[IA3_DIGEST_LEN];
    uint64 parameters, bytes, adapterValues;
    uint32 vocabSize, dModel, nEncoderLayers, nDecoderLayers;
    double dropoutRate;
    int nMethods, nLimits;
    Ia3EngineMethod methods[IA3_MAX_METHODS]; /* the first is the default */
    Ia3EngineLimit limits[IA3_MAX_LIMITS];
} Ia3EngineInfo;

/* Reads the payload of INFO_OK; false if it is too short, or has more than there is space for. */
extern bool Ia3EngineInfoRead(ia3_reader *reader, Ia3EngineInfo *info);

#endif
