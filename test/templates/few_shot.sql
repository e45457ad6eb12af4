-- The few-shot files of the T-Few paper. What differs from row to row becomes a field, the possible answers become choices;
-- wording that depends on the row (because/so) is made by the query.

CREATE VIEW copa AS
    SELECT id, doc ->> 'premise' AS premise, CASE doc ->> 'question' WHEN 'cause' THEN 'because' ELSE 'so' END AS word,
           doc ->> 'question' AS question,
           ARRAY[doc ->> 'choice1', doc ->> 'choice2'] AS choices, doc ->> CASE (doc -> 'label')::int WHEN 0 THEN 'choice1' ELSE 'choice2' END AS label,
           (doc ->> 'premise') || ' This happened... ' || CASE doc ->> 'question' WHEN 'cause' THEN 'because' ELSE 'so' END
               || E'\nHelp me pick the more plausible option: - ' || (doc ->> 'choice1') || ', ' || (doc ->> 'choice2') AS prompt
      FROM shots WHERE task = 'copa';
SELECT check_task('copa', 32, 2, ARRAY[
    E'{premise} This happened... {word}\nHelp me pick the more plausible option: - {choices}',
    'What could be the {question} of this? {premise} ({choices})', '{premise} {word}...']);

CREATE VIEW "h-swag" AS
    SELECT id, doc ->> 'ctx' AS ctx, doc ->> 'activity_label' AS topic,
           ARRAY(SELECT jsonb_array_elements_text(doc -> 'endings')) AS choices, doc -> 'endings' ->> (doc -> 'label')::int AS label,
           'How does this end? ' || (doc ->> 'ctx') AS prompt
      FROM shots WHERE task = 'h-swag';
SELECT check_task('"h-swag"', 20, 4, ARRAY['How does this end? {ctx}', E'Topic: {topic}\n{ctx}\nEnding:',
    E'One of these follows: {choices}\n{ctx}']);

CREATE VIEW storycloze AS
    SELECT id, concat_ws(' ', doc ->> 'input_sentence_1', doc ->> 'input_sentence_2', doc ->> 'input_sentence_3', doc ->> 'input_sentence_4') AS story,
           ARRAY[doc ->> 'sentence_quiz1', doc ->> 'sentence_quiz2'] AS choices,
           doc ->> ('sentence_quiz' || (doc ->> 'answer_right_ending')) AS label,
           (doc ->> 'input_sentence_1') || ' ' || (doc ->> 'input_sentence_2') || ' ' || (doc ->> 'input_sentence_3') || ' '
               || (doc ->> 'input_sentence_4') || ' What is a possible continuation?' AS prompt
      FROM shots WHERE task = 'storycloze';
SELECT check_task('storycloze', 70, 2, ARRAY['{story} What is a possible continuation?', '{story} Choose: {choices}']);

CREATE VIEW winogrande AS
    SELECT id, doc ->> 'sentence' AS sentence, ARRAY[doc ->> 'option1', doc ->> 'option2'] AS choices,
           doc ->> ('option' || (doc ->> 'answer')) AS label,
           (doc ->> 'sentence') || E'\nReplace the _ in the above sentence with the correct option: \n- ' || (doc ->> 'option1')
               || E', ' || (doc ->> 'option2') AS prompt
      FROM shots WHERE task = 'winogrande';
SELECT check_task('winogrande', 50, 2, ARRAY[
    E'{sentence}\nReplace the _ in the above sentence with the correct option: \n- {choices}', 'In "{sentence}", what is _? {choices}']);

CREATE VIEW rte AS
    SELECT id, doc ->> 'premise' AS premise, doc ->> 'hypothesis' AS hypothesis, (ARRAY['Yes', 'No'])[(doc -> 'label')::int + 1] AS label,
           'Suppose ' || (doc ->> 'premise') || ' Can we infer that "' || (doc ->> 'hypothesis') || '"? Yes or no?' AS prompt
      FROM shots WHERE task = 'rte';
SELECT check_task('rte', 32, 2, ARRAY['Suppose {premise} Can we infer that "{hypothesis}"? Yes or no?',
    E'{premise}\nQuestion: {hypothesis} True or false?', '{premise} Therefore, {hypothesis} {choices}?'], ARRAY['Yes', 'No']);

CREATE VIEW wic AS
    SELECT id, doc ->> 'word' AS word, doc ->> 'sentence1' AS sentence1, doc ->> 'sentence2' AS sentence2,
           CASE (doc -> 'label')::int WHEN 1 THEN 'Yes' ELSE 'No' END AS label,
           'Does the word "' || (doc ->> 'word') || E'" have the same meaning in these two sentences?\n' || (doc ->> 'sentence1')
               || E'\n' || (doc ->> 'sentence2') AS prompt
      FROM shots WHERE task = 'wic';
SELECT check_task('wic', 32, 2, ARRAY[E'Does the word "{word}" have the same meaning in these two sentences?\n{sentence1}\n{sentence2}',
    E'{sentence1}\n{sentence2}\nSame sense of {word}? {choices}'], ARRAY['No', 'Yes']);

CREATE VIEW anli AS
    SELECT id, doc ->> 'premise' AS premise, doc ->> 'hypothesis' AS hypothesis,
           (ARRAY['True', 'Neither', 'False'])[(doc -> 'label')::int + 1] AS label,
           (doc ->> 'premise') || E'\nQuestion: ' || (doc ->> 'hypothesis') || ' True, False, or Neither?' AS prompt, task
      FROM shots WHERE task ~ '^anli-r';
CREATE VIEW "anli-r1" AS SELECT * FROM anli WHERE task = 'anli-r1';
CREATE VIEW "anli-r2" AS SELECT * FROM anli WHERE task = 'anli-r2';
CREATE VIEW "anli-r3" AS SELECT * FROM anli WHERE task = 'anli-r3';
SELECT check_task(format('%I', r), 50, 3, ARRAY[E'{premise}\nQuestion: {hypothesis} True, False, or Neither?', '{premise} {hypothesis} ({choices})'],
    ARRAY['True', 'Neither', 'False']) FROM unnest('{anli-r1,anli-r2,anli-r3}'::text[]) r;

CREATE VIEW cb AS
    SELECT id, doc ->> 'premise' AS premise, doc ->> 'hypothesis' AS hypothesis,
           (ARRAY['Yes', 'No', 'Maybe'])[(doc -> 'label')::int + 1] AS label,
           'Given ' || (doc ->> 'premise') || ' Should we assume that "' || (doc ->> 'hypothesis') || '" is true?' AS prompt
      FROM shots WHERE task = 'cb';
SELECT check_task('cb', 32, 3, ARRAY['Given {premise} Should we assume that "{hypothesis}" is true?'], ARRAY['Yes', 'No', 'Maybe']);

CREATE VIEW wsc AS
    SELECT id, doc ->> 'text' AS text, doc ->> 'span1_text' AS name, doc ->> 'span2_text' AS pronoun,
           CASE (doc -> 'label')::int WHEN 1 THEN 'Yes' ELSE 'No' END AS label,
           (doc ->> 'text') || ' In the previous sentence, does the pronoun "' || lower(doc ->> 'span2_text') || '" refer to '
               || (doc ->> 'span1_text') || '? Yes or no?' AS prompt, lower(doc ->> 'span2_text') AS lower_pronoun
      FROM shots WHERE task = 'wsc';
SELECT check_task('wsc', 32, 2, ARRAY['{text} In the previous sentence, does the pronoun "{lower_pronoun}" refer to {name}? Yes or no?',
    'Passage: {text} Does "{pronoun}" stand for "{name}"?'], ARRAY['No', 'Yes']);

CREATE VIEW boolq AS
    SELECT id, doc ->> 'passage' AS passage, doc ->> 'question' AS question, CASE (doc -> 'label')::int WHEN 1 THEN 'Yes' ELSE 'No' END AS label,
           'Text: ' || (doc ->> 'passage') || E'\n\nAnswer by yes or no: ' || (doc ->> 'question') || '?' AS prompt
      FROM shots WHERE task = 'boolq';
SELECT check_task('boolq', 32, 2, ARRAY[E'Text: {passage}\n\nAnswer by yes or no: {question}?'], ARRAY['No', 'Yes']);

CREATE VIEW sst2 AS
    SELECT id, doc ->> 'sentence' AS text, (ARRAY['negative', 'positive'])[(doc -> 'label')::int + 1] AS label, doc ->> 'sentence' AS prompt
      FROM shots WHERE task = 'sst2';
SELECT check_task('sst2', 32, 2, ARRAY['{text}'], ARRAY['negative', 'positive']);

SELECT is(string_agg(DISTINCT task, ' ' ORDER BY task), 'anli-r1 anli-r2 anli-r3 boolq cb copa h-swag rte sst2 storycloze wic winogrande wsc',
    'every few-shot file is among them') FROM shots;
