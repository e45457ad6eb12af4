/*
 * log.h
 *     Writes log lines ("LEVEL: text") to stderr, from where the supervisor forwards them to the server log.
 *
 * Any thread may log; each line is one write(), so lines of several threads do not mix.
 */
#ifndef IA3_LOG_H
#define IA3_LOG_H

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ia3_log_level { IA3_LOG_DEBUG, IA3_LOG_LOG, IA3_LOG_WARNING, IA3_LOG_ERROR } ia3_log_level;

/*
 * Writes one line, truncated to about 2,000 bytes, with line breaks replaced by spaces. If stderr is a full pipe, the
 * line is dropped, so that logging never blocks.
 */
void ia3_log(ia3_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/*
 * Gives the texts to `sink`, without level and line break, in place of writing them; NULL ends this. To be called while
 * there is no other thread.
 */
void ia3_log_divert(void (*sink)(ia3_log_level level, const char *text, void *arg), void *arg);

#ifdef __cplusplus
}
#endif

#endif
