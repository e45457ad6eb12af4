/*
 * engine_info.h
 *     What an engine says about itself (INFO_OK).
 */
#ifndef IA3_ENGINE_INFO_H
#define IA3_ENGINE_INFO_H

#include "common/protocol.h"
#include "common/wire.h"

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
} Ia3EngineInfo;

/* Reads the payload of INFO_OK; false if it is too short. */
extern bool Ia3EngineInfoRead(ia3_reader *reader, Ia3EngineInfo *info);

#endif
