/** Presets: values of some parameters, and a text that shows what they are for. */

export const PRESETS = [
  {
    name: "Natural",
    hint: "As the model speaks by itself",
    values: {},
    sample:
      "The first words of this text are heard while the last ones are still being made. Type something of your own, choose a voice, and press Speak.",
  },
  {
    name: "Storyteller",
    hint: "Warm and unhurried, for stories and audio books",
    values: { voice_exaggeration_factor: 0.6, synthesis_temperature: 0.75, speed: 0.9 },
    sample:
      "Once, at the very edge of the forest, there stood a house with a light in its window. Nobody could say who lived there, and nobody had ever dared to knock.",
  },
  {
    name: "Newsreader",
    hint: "Even and clear, for facts",
    values: { voice_exaggeration_factor: 0.35, synthesis_temperature: 0.5 },
    sample:
      "Good evening. After three dry weeks, rain has reached the coast tonight. Trains are running again on all lines, and schools will open tomorrow as usual.",
  },
  {
    name: "Assistant",
    hint: "Friendly and brisk, for short answers",
    values: { voice_exaggeration_factor: 0.5, synthesis_temperature: 0.6, speed: 1.1 },
    sample: "Sure! Your meeting is at half past nine, and it takes eleven minutes to walk there.",
  },
  {
    name: "Lively",
    hint: "Bright and varied, for games and advertising",
    values: { voice_exaggeration_factor: 0.8, synthesis_temperature: 0.9 },
    sample: "You did it! Three wins in a row, and the best score of the day. One more round?",
  },
  {
    name: "Dramatic",
    hint: "Intense and slower, for the stage",
    values: {
      voice_exaggeration_factor: 1.1,
      synthesis_temperature: 0.9,
      cfg_guidance_weight: 0.3,
    },
    sample: "Wait. Do you hear that? Whatever you do, do not open the door. It has found us.",
  },
];

/** The parameters that presets set. */
export const PRESET_NAMES = [...new Set(PRESETS.flatMap(({ values }) => Object.keys(values)))];

/** Whether a text is one of the samples, so that another sample may take its place. */
export const isSample = (text) => !text.trim() || PRESETS.some(({ sample }) => sample === text.trim());
