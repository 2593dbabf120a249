// The preset that React recommends, for the hook and the application. No rule is switched off.
import parser from "@typescript-eslint/parser";
import reactHooks from "eslint-plugin-react-hooks";

export default [
  { ...reactHooks.configs.flat.recommended, files: ["**/*.{js,jsx,tsx}"] },
  { files: ["**/*.{js,jsx,tsx}"], languageOptions: { parser, parserOptions: { ecmaFeatures: { jsx: true } } } },
  { linterOptions: { reportUnusedDisableDirectives: "error", noInlineConfig: true } },
];
